#include "ssa/eval/python_random.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <unordered_set>
#include <utility>

#include "ssa/base/error.h"

namespace ssa::eval {

namespace {

/// CPython's seeding as a seed sequence for std::mt19937: generate() writes the generator's initial state.
class InitByArray {
 public:
  using result_type = std::uint32_t;

  explicit InitByArray(std::vector<std::uint32_t> key) : key_(std::move(key)) {}

  template <class Iterator>
  void generate(Iterator state, Iterator end) const {
    const auto n = end - state;
    state[0] = 19650218u;
    for (std::ptrdiff_t i = 1; i < n; ++i) state[i] = 1812433253u * mixed(state[i - 1]) + static_cast<std::uint32_t>(i);
    std::ptrdiff_t i = 1;
    const auto advance = [&] {
      if (++i < n) return;
      state[0] = state[n - 1];
      i = 1;
    };
    for (std::size_t k = 0, j = 0; k < std::max(static_cast<std::size_t>(n), key_.size()); ++k) {
      state[i] = (state[i] ^ mixed(state[i - 1]) * 1664525u) + key_[j] + static_cast<std::uint32_t>(j);
      advance();
      if (++j == key_.size()) j = 0;
    }
    for (std::ptrdiff_t k = 1; k < n; ++k) {
      state[i] = (state[i] ^ mixed(state[i - 1]) * 1566083941u) - static_cast<std::uint32_t>(i);
      advance();
    }
    state[0] = 0x80000000u;
  }

 private:
  static std::uint32_t mixed(std::uint_fast32_t word) {
    const auto x = static_cast<std::uint32_t>(word);
    return x ^ x >> 30;
  }

  std::vector<std::uint32_t> key_;
};

std::mt19937 make_generator(std::int64_t seed) {
  const std::uint64_t magnitude = seed < 0 ? 0 - static_cast<std::uint64_t>(seed) : static_cast<std::uint64_t>(seed);
  std::vector<std::uint32_t> key = {static_cast<std::uint32_t>(magnitude)};
  if (magnitude >> 32) key.push_back(static_cast<std::uint32_t>(magnitude >> 32));
  InitByArray sequence(std::move(key));
  return std::mt19937(sequence);
}

}  // namespace

PythonRandom::PythonRandom(std::int64_t seed) : generator_(make_generator(seed)) {}

double PythonRandom::random() {
  const std::uint32_t high = bits() >> 5, low = bits() >> 6;
  return (high * 67108864.0 + low) / 9007199254740992.0;
}

std::uint32_t PythonRandom::below(std::uint32_t n) {
  const int unused = std::countl_zero(n);
  for (;;)
    if (const std::uint32_t r = bits() >> unused; r < n) return r;
}

std::vector<std::size_t> PythonRandom::sample(std::size_t n, std::size_t k) {
  SSA_CHECK(k <= n, "a sample of ", k, " documents, expected at most ", n);
  // CPython's threshold: for a larger n, a set of k indices takes less memory than a list of n.
  double set_size = 21;
  if (k > 5) set_size += std::pow(4.0, std::ceil(std::log(static_cast<double>(k) * 3) / std::log(4.0)));
  std::vector<std::size_t> result(k);
  if (static_cast<double>(n) <= set_size) {
    std::vector<std::size_t> pool(n);
    std::iota(pool.begin(), pool.end(), std::size_t{0});
    for (std::size_t i = 0; i < k; ++i) {
      const std::size_t j = below(static_cast<std::uint32_t>(n - i));
      result[i] = pool[j];
      pool[j] = pool[n - i - 1];
    }
  } else {
    std::unordered_set<std::size_t> taken;
    for (std::size_t& index : result) {
      do index = below(static_cast<std::uint32_t>(n));
      while (!taken.insert(index).second);
    }
  }
  return result;
}

}  // namespace ssa::eval
