// select_blocks for single queries at given positions, as in decoding. One kernel computes scores, a CTA per kTile
// blocks, query and key/value head, with the maximum and the sum of each query head's exponentials over the tile.
// Another chooses, one CTA per query and key/value head, with the importance of all blocks in shared memory.
#pragma once

#include "decode_scorer.cuh"
#include "kernels/common/device/launch.cuh"

namespace ssa::cuda {

/// What the first kernel leaves to the second, in scratch.
struct DecodeScores {
  float* scores;  ///< [B, T, HQ, N], in units of log2 e; only of complete blocks
  float2* tiles;  ///< [B, T, HQ, tiles of N]: maximum; sum of exp2(score - maximum)
};

struct SelectDecodeConfig {
  static constexpr int kTile = 64;  ///< blocks per CTA, 16 per warp
  static constexpr int kScoreThreads = kTile / 16 * kWarpSize;
  static constexpr int kChooseThreads = 1024;

  static std::int64_t tiles(std::int64_t N) { return (N + kTile - 1) / kTile; }
};

/// Dynamic shared memory of the choice: this struct, then the importance of N blocks.
struct ChooseShared {
  static constexpr int kBits = 31;  ///< of a float that is not negative
  int reach[kBits + 1];             ///< blocks that reach the trial of a bit; then blocks above the threshold
  float2 softmax[kMostGroup];       ///< maximum; reciprocal of the sum

  static std::size_t bytes(std::int64_t N) {
    return sizeof(ChooseShared) + static_cast<std::size_t>(N) * sizeof(float);
  }
};

/// CTA (tile, kv_head and t, b).
template <int kD>
__global__ void __launch_bounds__(SelectDecodeConfig::kScoreThreads)
    score_blocks_decode_kernel(const SelectArgs a, const std::int32_t* positions, const DecodeScores to) {
  wait_for_previous_kernel();
  using C = SelectDecodeConfig;
  __shared__ float scores[kMostGroup][C::kTile + 1];
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize, lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const DecodeTask task(a, positions, static_cast<int>(blockIdx.y), static_cast<int>(blockIdx.z));
  const int complete = task.complete, first = static_cast<int>(blockIdx.x) * C::kTile, warp_first = first + warp * 16;
  if (first >= complete) return;

  DecodeScorer<kD> scorer(a, task, lane);
  typename DecodeScorer<kD>::Means means;
  scorer.load(means, warp_first, complete);
  scorer.load_queries(a.q + task.heads * kD);
  scorer.score(means, [&](int g, int n, float score) {
    scores[g][warp * 16 + n] = warp_first + n < complete ? score : -kInfinity;
  });
  __syncthreads();
  for (int g = warp; g < task.G; g += C::kScoreThreads / kWarpSize) {
    const float x = scores[g][lane], y = scores[g][lane + kWarpSize], top = warp_max(fmaxf(x, y));
    const float sum = warp_sum(exp2_fast(x - top) + exp2_fast(y - top));
    float* row_of_head = to.scores + (task.heads + g) * a.N + first;
    if (first + lane < complete) row_of_head[lane] = x;
    if (first + lane + kWarpSize < complete) row_of_head[lane + kWarpSize] = y;
    if (lane == 0) to.tiles[(task.heads + g) * gridDim.x + blockIdx.x] = {top, sum};
  }
}

/// CTA (kv_head and t, b).
__global__ void __launch_bounds__(SelectDecodeConfig::kChooseThreads)
    choose_blocks_decode_kernel(const SelectArgs a, const std::int32_t* positions, const DecodeScores from,
                                const int tiles) {
  wait_for_previous_kernel();
  using C = SelectDecodeConfig;
  constexpr int kThreads = C::kChooseThreads, kWarps = kThreads / kWarpSize;
  extern __shared__ uint4 dynamic_shared[];
  auto& shared = *reinterpret_cast<ChooseShared*>(dynamic_shared);
  auto& [reach, softmax] = shared;
  float* importance = reinterpret_cast<float*>(&shared + 1);
  constexpr int kBits = ChooseShared::kBits;
  static_assert(kWarps == kBits + 1);  // the list uses an entry per warp
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarpSize, lane = thread % kWarpSize;
  const DecodeTask task(a, positions, static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y));
  const int own = task.own, complete = task.complete, G = task.G;

  if (warp < G) {
    const float2* partials = from.tiles + (task.heads + warp) * tiles;
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
      for (int g = 0; g < G; ++g)
        sum += exp2_fast(from.scores[(task.heads + g) * a.N + n] - softmax[g].x) * softmax[g].y;
    }
    importance[n] = sum;
  }
  __syncthreads();

  constexpr float kChosen = -1.0f;
  // Marks the `count` most important blocks of [begin, end). Importance is not negative, so its bits as an integer have
  // the same order. The threshold, the largest number that at least `count` blocks reach, is found bit by bit. If more
  // reach it, some are equal, and the lower indices are taken.
  const auto choose = [&](int begin, int end, int count) {
    count = min(count, end - begin);
    if (count <= 0) return;
    const auto bits_of = [&](int n) { return __float_as_uint(importance[n]); };
    if (thread <= kBits) reach[thread] = 0;
    __syncthreads();
    unsigned threshold = 0;
    int reached = end - begin;
    for (int bit = kBits - 1; bit >= 0 && reached > count; --bit) {
      const unsigned trial = threshold | 1u << bit;
      int sum = 0;
      for (int n = begin + thread; n < end; n += kThreads) sum += bits_of(n) >= trial;
      sum = __reduce_add_sync(kFullMask, sum);
      if (lane == 0 && sum > 0) atomicAdd(&reach[bit], sum);
      __syncthreads();
      if (reach[bit] < count) continue;
      threshold = trial;
      reached = reach[bit];
    }
    int above = 0;
    for (int n = begin + thread; n < end; n += kThreads) {
      const bool is_above = bits_of(n) > threshold;
      above += is_above;
      if (is_above || (reached == count && bits_of(n) == threshold)) importance[n] = kChosen;
    }
    above = __reduce_add_sync(kFullMask, above);
    if (lane == 0 && above > 0) atomicAdd(&reach[kBits], above);
    __syncthreads();
    if (reached > count && warp == 0) {
      int left = count - reach[kBits];
      for (int first = begin; left > 0; first += kWarpSize) {
        const bool equal = first + lane < end && bits_of(first + lane) == threshold;
        const unsigned lanes = __ballot_sync(kFullMask, equal);
        if (equal && __popc(lanes & ((1u << lane) - 1)) < left) importance[first + lane] = kChosen;
        left -= min(left, __popc(lanes));
      }
    }
    __syncthreads();
  };
  if (a.reference && a.block_counts > a.block_size / 2 && own >= a.block_size) {
    const int half = a.block_size / 2, newest = own / a.block_size * a.block_size;
    choose(0, newest, half);
    choose(newest, own, half - 1);
  } else {
    choose(0, own, a.block_counts - 1);
  }

  // The list: every warp takes a range of blocks, whose place is known when all have counted.
  const int range = ((own + 1 + kWarps - 1) / kWarps + kWarpSize - 1) / kWarpSize * kWarpSize;
  const int first = warp * range, last = min(own + 1, first + range);
  const auto is_taken = [&](int n) { return n == own || (n < last && importance[n] == kChosen); };
  int mine = 0;
  for (int n = first + lane; n - lane < last; n += kWarpSize) mine += n < last && is_taken(n);
  mine = __reduce_add_sync(kFullMask, mine);
  if (lane == 0) reach[warp] = mine;
  __syncthreads();
  int place = __reduce_add_sync(kFullMask, lane < warp ? reach[lane] : 0);
  int* to = a.indices + (task.query * a.HK + task.kv_head) * a.slots;
  for (int n = first + lane; n - lane < last; n += kWarpSize) {
    const bool taken = n < last && is_taken(n);
    const unsigned lanes = __ballot_sync(kFullMask, taken);
    if (taken) to[place + __popc(lanes & ((1u << lane) - 1))] = n;
    place += __popc(lanes);
  }
  const int used = __reduce_add_sync(kFullMask, reach[lane]);
  for (int slot = used + thread; slot < a.slots; slot += kThreads) to[slot] = -1;
}

}  // namespace ssa::cuda
