// FP8 E4M3 on the host, without CUDA headers. Tensors store it as u8.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace ssa {

/// OCP 8-bit floating point, E4M3: 1 sign, 4 exponent (bias 7) and 3 mantissa bits; from 2^-9 to 448, no infinities.
/// Conversion rounds to nearest even; finite values above 448 become 448, infinities and NaN become NaN.
struct float8_e4m3 {
  static constexpr float kMax = 448.0f;
  static constexpr std::uint8_t kNaN = 0x7f;
  std::uint8_t bits = 0;

  float8_e4m3() = default;
  explicit float8_e4m3(float value) {
    constexpr std::uint32_t kInfinity = 0x7f800000u;
    constexpr float kDenormals = 0x1p14f;  // floats from 2^14 on are 2^-9 apart, as e4m3 is below 2^-6
    const auto u = std::bit_cast<std::uint32_t>(value) & 0x7fffffffu;
    const auto magnitude = std::bit_cast<float>(u);
    std::uint32_t code = 0;
    if (u >= kInfinity)
      code = kNaN;
    else if (magnitude >= kMax)
      code = 0x7e;
    else if (magnitude < 0x1p-6f)
      code = std::bit_cast<std::uint32_t>(magnitude + kDenormals) - std::bit_cast<std::uint32_t>(kDenormals);
    else
      code = ((u + 0x7ffffu + ((u >> 20) & 1u)) >> 20) - (120u << 3);  // exponent bias 127 to 7
    bits = static_cast<std::uint8_t>(code | (std::signbit(value) ? 0x80u : 0u));
  }
  explicit operator float() const {
    const std::uint32_t code = bits & 0x7fu;
    float magnitude = std::bit_cast<float>((code << 20) + (120u << 23));
    if (code < 8) magnitude = static_cast<float>(code) * 0x1p-9f;
    if (code == kNaN) magnitude = std::numeric_limits<float>::quiet_NaN();
    return bits & 0x80 ? -magnitude : magnitude;
  }
};
static_assert(sizeof(float8_e4m3) == 1);

}  // namespace ssa
