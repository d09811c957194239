// Counter-based random numbers: a value is a pure function of (seed, purpose, step, index). There is no generator state
// to save or advance, and the values are the same on every rank and for any number of threads.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>

namespace ssa {

/// The use of a random value. Different uses get independent sequences.
enum class RandomPurpose : std::uint32_t { init = 1, stream = 2, shuffle = 3, sample = 4, test = 5, moments = 6 };

/// Philox-4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011), the two low words.
constexpr std::uint64_t philox(std::uint64_t key, std::uint64_t counter_hi, std::uint64_t counter_lo) {
  std::uint32_t c0 = static_cast<std::uint32_t>(counter_lo), c1 = static_cast<std::uint32_t>(counter_lo >> 32);
  std::uint32_t c2 = static_cast<std::uint32_t>(counter_hi), c3 = static_cast<std::uint32_t>(counter_hi >> 32);
  std::uint32_t k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c0;
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * c2;
    const std::uint32_t n0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const std::uint32_t n2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<std::uint32_t>(p1);
    c3 = static_cast<std::uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return std::uint64_t{c1} << 32 | c0;
}

constexpr std::uint64_t random_bits(std::uint64_t seed, RandomPurpose purpose, std::uint64_t step,
                                    std::uint64_t index) {
  return philox(seed, step << 8 | static_cast<std::uint64_t>(purpose), index);
}

/// Uniform in [0, 1), 53 random bits.
constexpr double random_uniform(std::uint64_t seed, RandomPurpose purpose, std::uint64_t step, std::uint64_t index) {
  return static_cast<double>(random_bits(seed, purpose, step, index) >> 11) * 0x1.0p-53;
}

/// Standard normal by Box-Muller on the two halves of one draw.
inline double random_normal(std::uint64_t seed, RandomPurpose purpose, std::uint64_t step, std::uint64_t index) {
  const std::uint64_t bits = random_bits(seed, purpose, step, index);
  const double u1 = (static_cast<double>(bits >> 32) + 0.5) * 0x1.0p-32;
  const double u2 = static_cast<double>(bits & 0xffffffffu) * 0x1.0p-32;
  return std::sqrt(-2.0 * std::log(u1)) * std::cos(2.0 * std::numbers::pi * u2);
}

}  // namespace ssa
