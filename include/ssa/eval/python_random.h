// Python's random.Random for whole-number seeds, number for number: lm-evaluation-harness draws its few-shot examples
// and bootstraps its standard errors with it.
//   generator   Mersenne Twister MT19937 (Matsumoto and Nishimura, ACM TOMACS 8, 1998), seeded by its init_by_array
//               with the seed's 32-bit words, the lowest first
//   random      53 bits of two draws
//   sample      CPython's: a shrinking pool for small populations, else a set of indices taken already
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace ssa::eval {

class PythonRandom {
 public:
  explicit PythonRandom(std::int64_t seed);

  std::uint32_t bits();  ///< 32 of them
  double random();       ///< in [0, 1)
  /// Whole number in [0, n), n in 1 to 2^32 - 1.
  std::uint32_t below(std::uint32_t n);
  /// The indices that random.sample(population, k) takes of a population of n, in its order. Error when k > n.
  std::vector<std::size_t> sample(std::size_t n, std::size_t k);

 private:
  void refill();

  std::array<std::uint32_t, 624> state_;
  std::size_t next_ = 624;
};

}  // namespace ssa::eval
