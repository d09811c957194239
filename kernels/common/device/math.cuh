// kernels/common/device: constants, and functions on the MUFU with an error of 2 ulp of f32, far below the rounding of
// a bf16 result.
#pragma once

#include <cuda_runtime.h>

namespace ssa::cuda {

inline constexpr float kLog2e = 1.4426950408889634f;
inline constexpr float kLn2 = 0.6931471805599453f;
inline constexpr float kInfinity = __builtin_huge_valf();

/// 2^x; 0 for x of -infinity.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// 1 / (1 + e^-x)
__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + exp2_fast(-kLog2e * x)); }

}  // namespace ssa::cuda
