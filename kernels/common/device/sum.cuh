// Second pass of a sum over blocks: shares are added in a fixed order by one block.
#pragma once

#include <cstdint>

#include "launch.cuh"
#include "reduce.cuh"

namespace ssa::cuda {

inline constexpr int kSumThreads = 1024;

/// out[0] += scale * sum of shares: thread i adds shares i, i + 1024, ... in order, then the threads' sums are added.
template <class Share>
__global__ void __launch_bounds__(kSumThreads)
    add_sum_kernel(double* out, const Share* shares, std::int64_t count, double scale) {
  __shared__ double shared[kSumThreads / kWarpSize];
  double sum = 0;
#pragma unroll 8  // one block waits for each round of loads: many in flight
  for (std::int64_t i = threadIdx.x; i < count; i += kSumThreads) sum += static_cast<double>(shares[i]);
  sum = block_sum<kSumThreads>(sum, shared);
  if (threadIdx.x == 0) *out += scale * sum;
}

template <class Share>
void add_sum(Stream& stream, const char* op, double* out, const Share* shares, std::int64_t count, double scale = 1) {
  launch(stream, op, add_sum_kernel<Share>, {.grid = 1, .block = kSumThreads}, out, shares, count, scale);
}

}  // namespace ssa::cuda
