// select_blocks for single queries at given positions, as in decoding: one CTA per query and key/value head, with the
// importance of all blocks in shared memory.
#pragma once

#include "config.cuh"

namespace ssa::cuda {

inline constexpr int kDecodeThreads = 256;

/// Dynamic shared memory: importance[N], then the scores[N] of one query head.
inline std::size_t decode_shared_bytes(std::int64_t N) { return static_cast<std::size_t>(2 * N) * sizeof(float); }

/// CTA (kv_head, t, b).
template <int kD>
__global__ void __launch_bounds__(kDecodeThreads)
    select_blocks_decode_kernel(const SelectArgs a, const std::int32_t* positions) {
  extern __shared__ float decode_shared[];
  constexpr int kWarps = kDecodeThreads / kWarpSize, kEach = kD / kWarpSize;
  __shared__ float partial[kWarps];
  __shared__ long long warp_keys[kWarps];
  float *importance = decode_shared, *scores = importance + a.N;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarpSize, lane = thread % kWarpSize;
  const int kv_head = static_cast<int>(blockIdx.x), G = a.HQ / a.HK;
  const std::int64_t b = blockIdx.z, query = b * a.T + blockIdx.y;
  const int position = positions[query], own = position / a.block_size, complete = (position + 1) / a.block_size;

  for (int n = thread; n <= own; n += kDecodeThreads) importance[n] = 0;
  for (int g = 0; g < G; ++g) {
    const __nv_bfloat16* q = a.q + (query * a.HQ + kv_head * G + g) * kD + lane * kEach;
    for (int n = warp; n < complete; n += kWarps) {
      const __nv_bfloat16* mean = a.k_mean + ((b * a.N + n) * a.HK + kv_head) * kD + lane * kEach;
      float score = 0;
#pragma unroll
      for (int e = 0; e < kEach; ++e) score += __bfloat162float(q[e]) * __bfloat162float(mean[e]);
      score = warp_sum(score);
      if (lane == 0) scores[n] = score * a.scale * kLog2e;
    }
    __syncthreads();
    float row_max = -kInfinity, row_sum = 0;
    for (int n = thread; n < complete; n += kDecodeThreads) row_max = fmaxf(row_max, scores[n]);
    row_max = block_max<kDecodeThreads>(row_max, partial);
    __syncthreads();
    for (int n = thread; n < complete; n += kDecodeThreads) row_sum += scores[n] = exp2_fast(scores[n] - row_max);
    row_sum = block_sum<kDecodeThreads>(row_sum, partial);
    for (int n = thread; n < complete; n += kDecodeThreads) importance[n] += scores[n] / row_sum;
    __syncthreads();
  }

  constexpr float kChosen = -1.0f;
  // Marks the `count` most important blocks of [begin, end). Importance is not negative, so as an integer it has the
  // same order. It is the upper half of the key; the lower half is the negated index, so that the lower index wins a
  // tie.
  const auto choose = [&](int begin, int end, int count) {
    for (count = min(count, end - begin); count > 0; --count) {
      long long highest = -1;
      for (int n = begin + thread; n < end; n += kDecodeThreads)
        highest = max(highest, static_cast<long long>(__float_as_int(importance[n])) << 32 | (0x7fffffff - n));
      highest = block_max<kDecodeThreads>(highest, warp_keys);
      __syncthreads();
      if (thread == 0) importance[0x7fffffff - static_cast<int>(highest & 0x7fffffff)] = kChosen;
      __syncthreads();
    }
  };
  if (a.reference && a.block_counts > a.block_size / 2 && own >= a.block_size) {
    const int half = a.block_size / 2, newest = own / a.block_size * a.block_size;
    choose(0, newest, half);
    choose(newest, own, half - 1);
  } else {
    choose(0, own, a.block_counts - 1);
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
