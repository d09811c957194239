// kernels/common/device: reductions and prefix sums over a warp, reductions over a CTA, in an order that depends only
// on the number of threads.
#pragma once

#include <cuda_runtime.h>

namespace ssa::cuda {

constexpr int kWarpSize = 32;
constexpr unsigned kFullMask = 0xffffffffu;

/// Sum over groups of `kWidth` adjacent lanes; every lane gets it.
template <int kWidth = kWarpSize, class T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
  for (int offset = kWidth / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(kFullMask, value, offset);
  return value;
}

template <int kWidth = kWarpSize, class T>
__device__ __forceinline__ T warp_max(T value) {
#pragma unroll
  for (int offset = kWidth / 2; offset > 0; offset /= 2) value = max(value, __shfl_xor_sync(kFullMask, value, offset));
  return value;
}

/// Sum over this lane and the lanes before it.
template <class T>
__device__ __forceinline__ T warp_inclusive_sum(T value, int lane) {
#pragma unroll
  for (int distance = 1; distance < kWarpSize; distance *= 2) {
    const T other = __shfl_up_sync(kFullMask, value, distance);
    if (lane >= distance) value += other;
  }
  return value;
}

/// Sum over the lanes before this one.
template <class T>
__device__ __forceinline__ T warp_exclusive_sum(T value, int lane) {
  return warp_inclusive_sum(value, lane) - value;
}

/// Sum over the CTA; every thread gets it. `shared` has kThreads / 32 values and may be reused after the next
/// __syncthreads().
template <int kThreads, class T>
__device__ __forceinline__ T block_sum(T value, T* shared) {
  constexpr int kWarps = kThreads / kWarpSize;
  static_assert(kThreads % kWarpSize == 0 && kWarps <= kWarpSize);
  value = warp_sum(value);
  if constexpr (kWarps == 1) return value;
  if (threadIdx.x % kWarpSize == 0) shared[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  T sum = shared[0];
#pragma unroll
  for (int warp = 1; warp < kWarps; ++warp) sum += shared[warp];
  return sum;
}

/// Maximum over the CTA, as block_sum.
template <int kThreads, class T>
__device__ __forceinline__ T block_max(T value, T* shared) {
  constexpr int kWarps = kThreads / kWarpSize;
  static_assert(kThreads % kWarpSize == 0 && kWarps <= kWarpSize);
  value = warp_max(value);
  if constexpr (kWarps == 1) return value;
  if (threadIdx.x % kWarpSize == 0) shared[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  T result = shared[0];
#pragma unroll
  for (int warp = 1; warp < kWarps; ++warp) result = max(result, shared[warp]);
  return result;
}

}  // namespace ssa::cuda
