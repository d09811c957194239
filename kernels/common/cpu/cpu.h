// Functions shared by the CPU ops, which are templates over Real: float is the backend, double is for derivative tests.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "ssa/runtime/tensor.h"

namespace ssa::cpu {

/// Calls f.operator()<float>() or f.operator()<double>(), by the dtype of one of the op's activations.
template <class F>
void dispatch_real(const Tensor& activation, F&& f) {
  switch (activation.dtype()) {
    case DType::f32: return f.template operator()<float>();
    case DType::f64: return f.template operator()<double>();
    default: fail("CPU op: tensor of ", name_of(activation.dtype()), ", expected f32");
  }
}

/// Sum of a[i] * b[i].
template <class Real>
Real dot(const Real* a, const Real* b, std::int64_t n) {
  Real sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

/// y[i] += a * x[i].
template <class Real>
void axpy(Real a, const Real* x, Real* y, std::int64_t n) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) y[i] += a * x[i];
}

/// e^x to 2 units in the last place, without branches or calls, so that loops over it vectorize (loops over std::exp do
/// not without -ffast-math). 0 below -87, infinity above 88; NaN stays NaN.
inline float exp_simd(float x) {
  // x = n ln 2 + r with integer n and |r| <= ln 2 / 2. Adding 1.5 * 2^23 rounds to an integer in the low mantissa bits.
  constexpr float kLog2e = 1.44269504f, kRound = 12582912.0f;
  constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;  // n * high is exact
  const float shifted = x * kLog2e + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  float sum = 1.0f / 5040;  // Taylor: the next term is below 6e-9 of the result
  sum = sum * r + 1.0f / 720;
  sum = sum * r + 1.0f / 120;
  sum = sum * r + 1.0f / 24;
  sum = sum * r + 1.0f / 6;
  sum = sum * r + 0.5f;
  sum = sum * r + 1.0f;
  sum = sum * r + 1.0f;
  const float power = std::bit_cast<float>((std::bit_cast<std::uint32_t>(shifted) << 23) + 0x3f800000u);  // 2^n
  const float result = sum * power;
  return x < -87.0f ? 0.0f : x > 88.0f ? std::numeric_limits<float>::infinity() : result;
}
inline double exp_simd(double x) { return std::exp(x); }

}  // namespace ssa::cpu
