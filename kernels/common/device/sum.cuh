// kernels/common/device: the second pass of a sum over CTAs. One CTA adds the partial sums in a fixed order.
#pragma once

#include <cstdint>

#include "launch.cuh"
#include "reduce.cuh"

namespace ssa::cuda {

inline constexpr int kSumThreads = 1024;

/// out[0] += scale * sum of the partial sums: thread i adds partial sums i, i + 1024, ..., then the threads are added.
template <class T>
__global__ void __launch_bounds__(kSumThreads)
    add_sum_kernel(double* out, const T* partials, std::int64_t count, double scale) {
  __shared__ double shared[kSumThreads / kWarpSize];
  double sum = 0;
#pragma unroll 8  // many loads in flight: one CTA has no others to hide their latency
  for (std::int64_t i = threadIdx.x; i < count; i += kSumThreads) sum += static_cast<double>(partials[i]);
  sum = block_sum<kSumThreads>(sum, shared);
  if (threadIdx.x == 0) *out += scale * sum;
}

template <class T>
void add_sum(Stream& stream, const char* op, double* out, const T* partials, std::int64_t count, double scale = 1) {
  launch(stream, op, add_sum_kernel<T>, {.grid = 1, .block = kSumThreads}, out, partials, count, scale);
}

}  // namespace ssa::cuda
