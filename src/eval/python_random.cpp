#include "ssa/eval/python_random.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <unordered_set>

#include "ssa/base/error.h"

namespace ssa::eval {

PythonRandom::PythonRandom(std::int64_t seed) {
  const std::uint64_t size = seed < 0 ? 0 - static_cast<std::uint64_t>(seed) : static_cast<std::uint64_t>(seed);
  std::vector<std::uint32_t> key = {static_cast<std::uint32_t>(size)};
  if (size >> 32) key.push_back(static_cast<std::uint32_t>(size >> 32));

  const std::size_t n = state_.size();
  state_[0] = 19650218u;
  for (std::size_t i = 1; i < n; ++i)
    state_[i] = 1812433253u * (state_[i - 1] ^ state_[i - 1] >> 30) + static_cast<std::uint32_t>(i);
  std::size_t i = 1, j = 0;
  const auto wrap = [&] {
    if (++i < n) return;
    state_[0] = state_[n - 1];
    i = 1;
  };
  for (std::size_t k = std::max(n, key.size()); k > 0; --k) {
    state_[i] = (state_[i] ^ (state_[i - 1] ^ state_[i - 1] >> 30) * 1664525u) + key[j] + static_cast<std::uint32_t>(j);
    wrap();
    if (++j == key.size()) j = 0;
  }
  for (std::size_t k = n - 1; k > 0; --k) {
    state_[i] = (state_[i] ^ (state_[i - 1] ^ state_[i - 1] >> 30) * 1566083941u) - static_cast<std::uint32_t>(i);
    wrap();
  }
  state_[0] = 0x80000000u;
}

void PythonRandom::refill() {
  const std::size_t n = state_.size(), m = 397;
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint32_t y = (state_[i] & 0x80000000u) | (state_[(i + 1) % n] & 0x7fffffffu);
    state_[i] = state_[(i + m) % n] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0u);
  }
  next_ = 0;
}

std::uint32_t PythonRandom::bits() {
  if (next_ == state_.size()) refill();
  std::uint32_t y = state_[next_++];
  y ^= y >> 11;
  y ^= y << 7 & 0x9d2c5680u;
  y ^= y << 15 & 0xefc60000u;
  return y ^ y >> 18;
}

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
  SSA_CHECK(k <= n, "a sample of ", k, " documents, expected at most the ", n, " there are");
  // The number of items from which CPython takes a set of k to be smaller than a list of n.
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
