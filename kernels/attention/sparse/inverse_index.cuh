// The tokens that selected each block. Where many of 32 adjacent tokens (a word of the bitmap) did, they are a dense
// group of the block. All other tokens are listed in ascending order, in segments of limited length.
#pragma once

#include "config.cuh"
#include "kernels/common/device/reduce.cuh"

namespace ssa::cuda {

/// Of the `heads` (batch, key/value head) pairs of one launch, numbered from 0.
struct InverseIndex {
  unsigned* bitmap;    ///< [heads, N, words] bit t of a block's words: token t selected the block
  int* token_begin;    ///< [heads, N + 1] first token of a block
  int* segment_begin;  ///< [heads, N + 1] first segment of a block
  int* tokens;         ///< [heads, T * slots] the listed tokens
  int* segment_block;  ///< [heads, max_segments] the block of a segment
  int* dense_begin;    ///< [heads, N + 1] first dense group of a block
  int* dense_place;    ///< [heads, N, words] index of a dense group among the head's
  int N, words, max_segments, segment_tokens;
  int dense_tokens;  ///< a word with at least this many bits is a dense group
  int max_dense;

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

/// One warp per (head, block): token_begin[block] = number of its listed tokens, dense_begin[block] = number of its
/// dense groups, until scan_selected_kernel.
__global__ void __launch_bounds__(kIndexThreads)
    count_selected_kernel(const InverseIndex index, int block_size, std::int64_t count) {
  const std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * kIndexThreads + threadIdx.x) / kWarpSize;
  if (i >= count) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, block = static_cast<int>(i % index.N);
  const unsigned* words = index.bitmap + i * index.words;
  int tokens = 0, dense = 0;
  for (int w = block * block_size / 32 + lane; w < index.words; w += kWarpSize) {
    const bool is_dense = index.is_dense(words[w]);
    tokens += is_dense ? 0 : __popc(words[w]);
    dense += is_dense;
  }
  tokens = warp_sum(tokens);
  dense = warp_sum(dense);
  if (lane == 0) {
    index.token_begin[i / index.N * (index.N + 1) + block] = tokens;
    index.dense_begin[i / index.N * (index.N + 1) + block] = dense;
  }
}

/// One CTA per head: turns the counts into begins.
__global__ void __launch_bounds__(kScanThreads) scan_selected_kernel(const InverseIndex index) {
  constexpr int kSums = 3;  // tokens, segments, dense groups
  __shared__ int warp_totals[kSums][kScanThreads / kWarpSize];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarpSize, warp = thread / kWarpSize;
  const std::int64_t offset = static_cast<std::int64_t>(blockIdx.x) * (index.N + 1);
  int* begins[kSums] = {index.token_begin + offset, index.segment_begin + offset, index.dense_begin + offset};
  int before[kSums] = {};  // totals of the earlier chunks
  for (int first = 0; first < index.N; first += kScanThreads) {
    const int block = first + thread;
    const int tokens = block < index.N ? begins[0][block] : 0, dense = block < index.N ? begins[2][block] : 0;
    const int counts[kSums] = {tokens, (tokens + index.segment_tokens - 1) / index.segment_tokens, dense};
    int sums[kSums];
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
      sums[i] = warp_inclusive_sum(counts[i], lane);
      if (lane == kWarpSize - 1) warp_totals[i][warp] = sums[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
      int total = 0;
#pragma unroll 4
      for (int w = 0; w < kScanThreads / kWarpSize; ++w) {
        if (w == warp) sums[i] += total;
        total += warp_totals[i][w];
      }
      if (block < index.N) begins[i][block] = before[i] + sums[i] - counts[i];
      before[i] += total;
    }
    __syncthreads();
  }
  if (thread == 0)
#pragma unroll
    for (int i = 0; i < kSums; ++i) begins[i][index.N] = before[i];
}

/// One warp per (head, block): writes the block's listed tokens in ascending order, the block of each segment, and the
/// indices of its dense groups.
__global__ void __launch_bounds__(kIndexThreads)
    list_selected_kernel(const InverseIndex index, std::int64_t list_length, int block_size, std::int64_t count) {
  const std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * kIndexThreads + threadIdx.x) / kWarpSize;
  if (i >= count) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, block = static_cast<int>(i % index.N);
  const std::int64_t head = i / index.N;
  const unsigned* words = index.bitmap + i * index.words;
  const int* segment_begin = index.segment_begin + head * (index.N + 1);
  for (int s = segment_begin[block] + lane; s < segment_begin[block + 1]; s += kWarpSize)
    index.segment_block[head * index.max_segments + s] = block;
  int* tokens = index.tokens + head * list_length;
  int next = index.token_begin[head * (index.N + 1) + block];
  int next_dense = index.dense_begin[head * (index.N + 1) + block];
  for (int first = block * block_size / 32; first < index.words; first += kWarpSize) {
    unsigned word = first + lane < index.words ? words[first + lane] : 0u;
    const bool is_dense = index.is_dense(word);
    const unsigned dense_lanes = __ballot_sync(kFullMask, is_dense);
    if (is_dense) {
      index.dense_place[i * index.words + first + lane] = next_dense + __popc(dense_lanes & ((1u << lane) - 1));
      word = 0;
    }
    next_dense += __popc(dense_lanes);
    const int mine = __popc(word);
    const int end = warp_inclusive_sum(mine, lane);
    int to = next + end - mine;
    for (; word; word &= word - 1) tokens[to++] = (first + lane) * 32 + __ffs(static_cast<int>(word)) - 1;
    next += __shfl_sync(kFullMask, end, kWarpSize - 1);
  }
}

}  // namespace ssa::cuda
