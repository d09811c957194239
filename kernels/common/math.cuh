// Functions on the special function unit: 2 ulp of f32, far below the rounding of a bf16 result.
#pragma once

#include <cuda_runtime.h>

namespace ssa::cuda {

constexpr float kLog2E = 1.44269504088896340736f;

/// 2^x; 0 for x of -infinity.
__device__ __forceinline__ float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// 1 / (1 + e^-x)
__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + fast_exp2(-kLog2E * x)); }

}  // namespace ssa::cuda
