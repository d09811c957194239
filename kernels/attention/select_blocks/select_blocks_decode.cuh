// The choice for single queries at given positions, as decoding asks for it: a block of threads takes one key/value
// head of one query, with the importance of every block mean in shared memory.
#pragma once

#include "kernels/common/device/launch.cuh"
#include "select_blocks.cuh"

namespace ssa::cuda {

constexpr int kSelectAtThreads = 256;

/// Importance and one head's scores of N blocks.
inline std::size_t select_at_shared_bytes(std::int64_t N) { return static_cast<std::size_t>(2 * N) * sizeof(float); }

/// Block (kv_head, t, row).
template <int kD>
__global__ void __launch_bounds__(kSelectAtThreads)
    select_at_kernel(const SelectArgs a, const std::int32_t* positions) {
  extern __shared__ float select_at_shared[];
  constexpr int kWarps = kSelectAtThreads / kWarpSize, kEach = kD / kWarpSize;
  __shared__ float partial[kWarps];
  __shared__ long long best_of[kWarps];
  float *importance = select_at_shared, *scores = importance + a.N;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarpSize, lane = thread % kWarpSize;
  const int kv_head = static_cast<int>(blockIdx.x), G = a.HQ / a.HK;
  const std::int64_t row = blockIdx.z, query = row * a.T + blockIdx.y;
  const int position = positions[query], own = position / a.block_size, complete = (position + 1) / a.block_size;

  for (int n = thread; n <= own; n += kSelectAtThreads) importance[n] = 0;
  for (int g = 0; g < G; ++g) {
    const __nv_bfloat16* q = a.q + (query * a.HQ + kv_head * G + g) * kD + lane * kEach;
    for (int n = warp; n < complete; n += kWarps) {
      const __nv_bfloat16* mean = a.k_mean + ((row * a.N + n) * a.HK + kv_head) * kD + lane * kEach;
      float score = 0;
#pragma unroll
      for (int e = 0; e < kEach; ++e) score += __bfloat162float(q[e]) * __bfloat162float(mean[e]);
      score = warp_sum(score);
      if (lane == 0) scores[n] = score * a.scale * kLog2e;
    }
    __syncthreads();
    float top = -kInfinity, sum = 0;
    for (int n = thread; n < complete; n += kSelectAtThreads) top = fmaxf(top, scores[n]);
    top = block_max<kSelectAtThreads>(top, partial);
    __syncthreads();
    for (int n = thread; n < complete; n += kSelectAtThreads) sum += scores[n] = exp2_fast(scores[n] - top);
    sum = block_sum<kSelectAtThreads>(sum, partial);
    for (int n = thread; n < complete; n += kSelectAtThreads) importance[n] += scores[n] / sum;
    __syncthreads();
  }

  constexpr float kChosen = -1.0f;
  /// Marks the `count` best of [begin, end). Importance is not negative, so that as an integer it has the same order;
  /// behind it the index, so that the lower one wins a tie.
  const auto choose_best = [&](int begin, int end, int count) {
    for (count = min(count, end - begin); count > 0; --count) {
      long long best = -1;
      for (int n = begin + thread; n < end; n += kSelectAtThreads)
        best = max(best, static_cast<long long>(__float_as_int(importance[n])) << 32 | (0x7fffffff - n));
      best = block_max<kSelectAtThreads>(best, best_of);
      __syncthreads();
      if (thread == 0) importance[0x7fffffff - static_cast<int>(best & 0x7fffffff)] = kChosen;
      __syncthreads();
    }
  };
  if (a.reference && a.block_counts > a.block_size / 2 && own >= a.block_size) {
    const int half = a.block_size / 2, newest = own / a.block_size * a.block_size;
    choose_best(0, newest, half);
    choose_best(newest, own, half - 1);
  } else {
    choose_best(0, own, a.block_counts - 1);
  }

  if (warp > 0) return;
  int* to = a.indices + (query * a.HK + kv_head) * a.slots;
  int used = 0;
  for (int first = 0; first <= own; first += kWarpSize) {
    const int n = first + lane;
    const bool taken = n == own || (n < own && importance[n] == kChosen);
    const unsigned lanes = __ballot_sync(kFullMask, taken);
    if (taken) to[used + __popc(lanes & ((1u << lane) - 1))] = n;
    used += __popc(lanes);
  }
  for (int s = used + lane; s < a.slots; s += kWarpSize) to[s] = -1;
}

}  // namespace ssa::cuda
