// Rounding f32 to bf16 up or down at random, with the probability that makes the mean exact. The same on both backends.
#pragma once

#include <cstdint>

#include "ssa/base/random.h"

namespace ssa {

/// The random bits of both moments of one element: the low 16 for m, the next 16 for v.
constexpr std::uint32_t moment_rounding_bits(std::uint64_t seed, std::uint64_t step, std::uint64_t index) {
  return static_cast<std::uint32_t>(random_bits(seed, RandomPurpose::moments, step, index));
}

/// The bits of a bf16, from those of a finite float: adding 16 random bits to the 16 that are cut off carries with
/// probability (cut-off part) / 2^16. Infinities stay, and a NaN stays a NaN.
constexpr std::uint16_t round_at_random(std::uint32_t float_bits, std::uint32_t random) {
  constexpr std::uint32_t kExponent = 0x7f800000u, kQuiet = 0x00400000u;
  if ((float_bits & kExponent) == kExponent) {
    const bool nan = (float_bits & 0x007fffffu) != 0;
    return static_cast<std::uint16_t>((nan ? float_bits | kQuiet : float_bits) >> 16);
  }
  return static_cast<std::uint16_t>((float_bits + (random & 0xffffu)) >> 16);
}

}  // namespace ssa
