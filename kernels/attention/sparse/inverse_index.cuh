// The tokens that selected each block. Where many of 32 adjacent tokens (a word of the bitmap) did, they are a dense
// group of the block. All other tokens are listed in ascending order, in segments of limited length.
#pragma once

#include "config.cuh"
#include "kernels/common/device/reduce.cuh"

namespace ssa::cuda {

/// Adjacent tokens of a block's list, for one team.
struct alignas(16) ListSegment {
  int list;           ///< head * N + block
  int first, tokens;  ///< of InverseIndex::tokens
  int part;           ///< index of its partial sum; -1: the block has no other part, and the team writes its gradients
};

/// A block that many of 32 adjacent tokens selected.
struct alignas(16) DenseGroup {
  int block;
  unsigned tokens;  ///< a bit each
  int part;         ///< index of its partial sum, among those of dense groups
};

/// Where the partial sums of a block are.
struct alignas(16) BlockParts {
  int first_segment, segments, first_dense, dense;
};

/// Of the `heads` (batch, key/value head) pairs of one launch, numbered from 0. Where a block's tokens, segments and
/// parts are depends on the order in which CTAs run. Their order within a block does not, so neither do results.
struct InverseIndex {
  unsigned* bitmap;       ///< [heads, N, words] bit t of a block's words: token t selected the block
  int* dense_count;       ///< [heads, words] dense groups of a word's tokens
  int* totals;            ///< [kTotals] used so far, see Total
  int* tokens;            ///< [heads * T * slots] the listed tokens
  ListSegment* segments;  ///< [heads * max_segments]
  DenseGroup* dense;      ///< [heads, words, max_word_groups], in any order
  BlockParts* parts;      ///< [heads, N]
  int N, words, segment_tokens;
  int dense_tokens;  ///< a word with at least this many bits is a dense group
  int max_word_groups;

  /// kTaken: segments that teams of the lists kernel have taken.
  enum Total { kTokens, kSegments, kDense, kTaken, kTotals };

  __device__ __forceinline__ bool is_dense(unsigned word) const { return __popc(word) >= dense_tokens; }
};

/// One thread per (head, token, slot). Sets bits with atomics; the result does not depend on their order.
__global__ void __launch_bounds__(kIndexThreads)
    mark_selected_kernel(const InverseIndex index, const int* indices, int T, int HK, int slots,
                         std::int64_t first_head, std::int64_t count) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kIndexThreads + threadIdx.x;
  if (i >= count) return;
  const int slot = static_cast<int>(i % slots), t = static_cast<int>(i / slots % T);
  const std::int64_t head = i / slots / T, b = (first_head + head) / HK, kv_head = (first_head + head) % HK;
  const int block = indices[((b * T + t) * HK + kv_head) * slots + slot];
  if (block >= 0) atomicOr(index.bitmap + (head * index.N + block) * index.words + t / 32, 1u << (t % 32));
}

/// One warp per (head, block): finds room for the block's lists and parts, and writes its listed tokens in ascending
/// order, its segments and its dense groups.
__global__ void __launch_bounds__(kIndexThreads)
    list_selected_kernel(const InverseIndex index, int block_size, std::int64_t count) {
  constexpr int kWarps = kIndexThreads / kWarpSize, kPlaces = InverseIndex::kDense + 1;
  __shared__ int begins[kPlaces][kWarps];
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize, lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp;
  const int block = static_cast<int>(i % index.N), first_word = block * block_size / 32;
  const int words = i < count ? index.words : 0;
  const unsigned* bitmap = index.bitmap + i * index.words;
  int listed = 0, dense = 0;
  for (int w = first_word + lane; w < words; w += kWarpSize) {
    const unsigned word = bitmap[w];
    const bool is_dense = index.is_dense(word);
    listed += is_dense ? 0 : __popc(word);
    dense += is_dense;
  }
  listed = warp_sum(listed);
  dense = warp_sum(dense);
  const int segments = (listed + index.segment_tokens - 1) / index.segment_tokens;
  if (lane == 0) {
    begins[InverseIndex::kTokens][warp] = listed;
    begins[InverseIndex::kSegments][warp] = segments;
    begins[InverseIndex::kDense][warp] = dense;
  }
  __syncthreads();
  if (threadIdx.x < kPlaces) {  // one atomic per CTA
    int(&of_warp)[kWarps] = begins[threadIdx.x];
    int sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += of_warp[w];
    int begin = atomicAdd(index.totals + threadIdx.x, sum);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const int size = of_warp[w];
      of_warp[w] = begin;
      begin += size;
    }
  }
  __syncthreads();
  if (i >= count) return;

  const int first = begins[InverseIndex::kTokens][warp], first_segment = begins[InverseIndex::kSegments][warp];
  const int first_dense = begins[InverseIndex::kDense][warp];
  if (lane == 0) index.parts[i] = {first_segment, segments, first_dense, dense};
  const bool alone = segments == 1 && dense == 0;
  for (int s = lane; s < segments; s += kWarpSize) {
    const int before = s * index.segment_tokens;
    index.segments[first_segment + s] = {static_cast<int>(i), first + before,
                                         min(index.segment_tokens, listed - before), alone ? -1 : first_segment + s};
  }
  int next = first, next_dense = first_dense;
  for (int begin = first_word; begin < words; begin += kWarpSize) {
    const int w = begin + lane;
    unsigned word = w < words ? bitmap[w] : 0u;
    const bool is_dense = index.is_dense(word);
    const unsigned dense_lanes = __ballot_sync(kFullMask, is_dense);
    if (is_dense) {
      const std::int64_t at = i / index.N * index.words + w;
      const int group = atomicAdd(index.dense_count + at, 1);
      index.dense[at * index.max_word_groups + group] = {block, word,
                                                         next_dense + __popc(dense_lanes & ((1u << lane) - 1))};
      word = 0;
    }
    next_dense += __popc(dense_lanes);
    const int mine = __popc(word);
    const int end = warp_inclusive_sum(mine, lane);
    int to = next + end - mine;
    for (; word; word &= word - 1) index.tokens[to++] = w * 32 + __ffs(static_cast<int>(word)) - 1;
    next += __shfl_sync(kFullMask, end, kWarpSize - 1);
  }
}

}  // namespace ssa::cuda
