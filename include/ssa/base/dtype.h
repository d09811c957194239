// Element types. bfloat16 is defined here so that host code can read and write it without CUDA headers.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include "ssa/base/error.h"

namespace ssa {

/// 1 sign, 8 exponent and 7 mantissa bits: the upper half of a float. Conversion rounds to nearest even.
struct bfloat16 {
  std::uint16_t bits = 0;

  bfloat16() = default;
  explicit bfloat16(float value) {
    const auto u = std::bit_cast<std::uint32_t>(value);
    if (std::isnan(value))
      bits = static_cast<std::uint16_t>((u >> 16) | 0x40u);  // stays a NaN, made quiet
    else
      bits = static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  explicit operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
};
static_assert(sizeof(bfloat16) == 2);

enum class DType : std::uint8_t { f32, bf16, f64, i32, u8 };

constexpr std::size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f64: return 8;
    case DType::f32:
    case DType::i32: return 4;
    case DType::bf16: return 2;
    case DType::u8: return 1;
  }
  return 0;
}

constexpr std::string_view name_of(DType dtype) {
  switch (dtype) {
    case DType::f64: return "f64";
    case DType::f32: return "f32";
    case DType::bf16: return "bf16";
    case DType::i32: return "i32";
    case DType::u8: return "u8";
  }
  return "?";
}

/// Element types only: no other type has a DType, and asking for one does not compile.
template <class T>
struct DTypeOf;
template <DType dtype>
using DTypeConstant = std::integral_constant<DType, dtype>;
template <>
struct DTypeOf<float> : DTypeConstant<DType::f32> {};
template <>
struct DTypeOf<bfloat16> : DTypeConstant<DType::bf16> {};
template <>
struct DTypeOf<double> : DTypeConstant<DType::f64> {};
template <>
struct DTypeOf<std::int32_t> : DTypeConstant<DType::i32> {};
template <>
struct DTypeOf<std::uint8_t> : DTypeConstant<DType::u8> {};

template <class T>
inline constexpr DType kDTypeOf = DTypeOf<T>::value;

}  // namespace ssa
