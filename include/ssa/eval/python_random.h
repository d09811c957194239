// Python's random.Random for integer seeds, number for number: lm-evaluation-harness draws its few-shot examples and
// bootstraps its standard errors with it.
//   generator   std::mt19937, seeded by the reference's init_by_array (Matsumoto and Nishimura, ACM TOMACS 8, 1998)
//               with the seed's 32-bit words, lowest first
//   random      53 bits from two draws
//   sample      CPython's algorithm: a shrinking pool for small populations, else a set of the indices already drawn
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace ssa::eval {

class PythonRandom {
 public:
  explicit PythonRandom(std::int64_t seed);

  std::uint32_t bits() { return static_cast<std::uint32_t>(generator_()); }  ///< 32 random bits
  double random();                                                           ///< in [0, 1)
  /// Integer in [0, n), for n from 1 to 2^32 - 1.
  std::uint32_t below(std::uint32_t n);
  /// The indices that random.sample(population, k) draws from a population of n, in its order. Error when k > n.
  std::vector<std::size_t> sample(std::size_t n, std::size_t k);

 private:
  std::mt19937 generator_;
};

}  // namespace ssa::eval
