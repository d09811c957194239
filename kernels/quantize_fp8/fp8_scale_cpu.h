// The scale of a block of an FP8 matrix on the CPU; fp8_matrix.h has the formula.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "ssa/base/float8.h"

namespace ssa::cpu {

/// As bits, NaN is larger than every number.
inline std::uint32_t magnitude_bits(float x) { return std::bit_cast<std::uint32_t>(x) & 0x7fffffffu; }

struct Fp8Scale {
  float scale, inverse;

  /// From the bits of the largest magnitude.
  explicit Fp8Scale(std::uint32_t largest) {
    const auto amax = std::bit_cast<float>(std::max(largest, std::bit_cast<std::uint32_t>(0x1p-110f)));
    scale = amax / float8_e4m3::kMax;
    inverse = float8_e4m3::kMax / amax;
  }
};

}  // namespace ssa::cpu
