// select_blocks for single queries at given positions, as in decoding. One kernel computes scores, a CTA per kTile blocks,
// query and key/value head, with the maximum and the sum of each query head's exponentials over the tile. Another
// chooses, one CTA per query and key/value head, with the importance of all blocks in shared memory.
#pragma once

#include "config.cuh"
#include "kernels/common/device/launch.cuh"

namespace ssa::cuda {

/// What the first kernel leaves to the second, in scratch.
struct DecodeScores {
  float* scores;  ///< [B, T, HQ, N], in units of log2 e; only of complete blocks
  float2* tiles;  ///< [B, T, HQ, tiles of N]: maximum; sum of exp2(score - maximum)
};

template <int kD>
struct SelectDecodeConfig {
  static constexpr int kTile = 64;  ///< blocks per CTA, 16 per warp
  static constexpr int kScoreThreads = kTile / 16 * kWarpSize;
  static constexpr int kChooseThreads = 1024;
  static constexpr int kMostHeads = 32;  ///< query heads per key/value head

  static std::int64_t tiles(std::int64_t N) { return (N + kTile - 1) / kTile; }
};

/// Dynamic shared memory of the choice: the importance of N blocks.
inline std::size_t choose_shared_bytes(std::int64_t N) { return static_cast<std::size_t>(N) * sizeof(float); }

/// CTA (tile, kv_head and t, b).
template <int kD>
__global__ void __launch_bounds__(SelectDecodeConfig<kD>::kScoreThreads)
    score_blocks_decode_kernel(const SelectArgs a, const std::int32_t* positions, const DecodeScores to) {
  wait_for_previous_kernel();
  using C = SelectDecodeConfig<kD>;
  constexpr int kVector = 8;  ///< elements in 16 bytes
  __shared__ float q[C::kMostHeads][kD], scores[C::kMostHeads][C::kTile];
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarpSize, lane = thread % kWarpSize;
  const int kv_head = static_cast<int>(blockIdx.y) % a.HK, t = static_cast<int>(blockIdx.y) / a.HK, G = a.HQ / a.HK;
  const std::int64_t b = blockIdx.z, query = b * a.T + t, heads = query * a.HQ + kv_head * G;
  const int complete = (positions[query] + 1) / a.block_size, first = static_cast<int>(blockIdx.x) * C::kTile;
  if (first >= complete) return;

  for (int i = thread; i < G * kD; i += C::kScoreThreads) q[i / kD][i % kD] = __bfloat162float(a.q[heads * kD + i]);
  const int n = first + thread % C::kTile;
  uint4 mean[kD / kVector];
#pragma unroll
  for (int i = 0; i < kD / kVector; ++i)
    mean[i] =
        n < complete ? reinterpret_cast<const uint4*>(a.k_mean + ((b * a.N + n) * a.HK + kv_head) * kD)[i] : uint4{};
  __syncthreads();
  for (int g = thread / C::kTile; g < G; g += C::kHeadGroups) {
    float score = 0;
#pragma unroll
    for (int i = 0; i < kD / kVector; ++i) {
      const unsigned words[] = {mean[i].x, mean[i].y, mean[i].z, mean[i].w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        score = fmaf(q[g][i * kVector + 2 * j], __uint_as_float(words[j] << 16), score);
        score = fmaf(q[g][i * kVector + 2 * j + 1], __uint_as_float(words[j] & 0xffff0000u), score);
      }
    }
    score = n < complete ? score * a.scale * kLog2e : -kInfinity;
    scores[g][thread % C::kTile] = score;
    if (n < complete) to.scores[(heads + g) * a.N + n] = score;
  }
  __syncthreads();
  for (int g = warp; g < G; g += C::kScoreThreads / kWarpSize) {
    const float x = scores[g][lane], y = scores[g][lane + kWarpSize], top = warp_max(fmaxf(x, y));
    const float sum = warp_sum(exp2_fast(x - top) + exp2_fast(y - top));
    if (lane == 0) to.tiles[(heads + g) * gridDim.x + blockIdx.x] = {top, sum};
  }
}

/// CTA (kv_head, t, b).
template <int kD>
__global__ void __launch_bounds__(SelectDecodeConfig<kD>::kChooseThreads)
    choose_blocks_decode_kernel(const SelectArgs a, const std::int32_t* positions, const DecodeScores from,
                                const int tiles) {
  wait_for_previous_kernel();
  using C = SelectDecodeConfig<kD>;
  constexpr int kThreads = C::kChooseThreads, kWarps = kThreads / kWarpSize;
  extern __shared__ float importance[];
  __shared__ long long warp_keys[kWarps];
  __shared__ float2 softmax[C::kMostHeads];  ///< maximum; reciprocal of the sum
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarpSize, lane = thread % kWarpSize;
  const int kv_head = static_cast<int>(blockIdx.x), G = a.HQ / a.HK;
  const std::int64_t query = static_cast<std::int64_t>(blockIdx.z) * a.T + blockIdx.y;
  const std::int64_t heads = query * a.HQ + kv_head * G;
  const int position = positions[query], own = position / a.block_size, complete = (position + 1) / a.block_size;

  if (warp < G) {
    const float2* partials = from.tiles + (heads + warp) * tiles;
    const int used = (complete + C::kTile - 1) / C::kTile;
    float top = -kInfinity, sum = 0;
    for (int i = lane; i < used; i += kWarpSize) top = fmaxf(top, partials[i].x);
    top = warp_max(top);
    for (int i = lane; i < used; i += kWarpSize) sum += partials[i].y * exp2_fast(partials[i].x - top);
    sum = warp_sum(sum);
    if (lane == 0) softmax[warp] = {top, 1 / sum};
  }
  __syncthreads();
  for (int n = thread; n <= own; n += kThreads) {
    float sum = 0;
    if (n < complete) {
#pragma unroll 4
      for (int g = 0; g < G; ++g) sum += exp2_fast(from.scores[(heads + g) * a.N + n] - softmax[g].x) * softmax[g].y;
    }
    importance[n] = sum;
  }
  __syncthreads();

  constexpr float kChosen = -1.0f;
  // Marks the `count` most important blocks of [begin, end). Importance is not negative, so as an integer it has the
  // same order. It is the upper half of the key; the lower half is the negated index, so that the lower index wins a
  // tie.
  const auto choose = [&](int begin, int end, int count) {
    for (count = min(count, end - begin); count > 0; --count) {
      long long highest = -1;
      for (int n = begin + thread; n < end; n += kThreads)
        highest = max(highest, static_cast<long long>(__float_as_int(importance[n])) << 32 | (0x7fffffff - n));
      highest = warp_max(highest);
      if (lane == 0) warp_keys[warp] = highest;
      __syncthreads();
      highest = warp_max(warp_keys[lane]);
      if (thread == 0) importance[0x7fffffff - static_cast<int>(highest & 0x7fffffff)] = kChosen;
      __syncthreads();
    }
  };
  static_assert(kWarps == kWarpSize);  // choose: a lane per warp
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
