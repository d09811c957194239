// Who selected each block: the tokens of every block in ascending order, cut into segments of limited length.
#pragma once

#include "kernels/common/launch.cuh"
#include "kernels/common/reduce.cuh"
#include "ssa/runtime/arena.h"

namespace ssa::cuda {

/// Of `heads` (row, key/value head) pairs, numbered from 0 within the group that is worked on at once.
struct InverseIndex {
  unsigned* bitmap;    ///< [heads, N, words] bit t of a block's words: token t selected it
  int* token_begin;    ///< [heads, N + 1] where a block's tokens begin
  int* segment_begin;  ///< [heads, N + 1] where a block's segments begin
  int* tokens;         ///< [heads, T * slots]
  int* segment_block;  ///< [heads, max_segments] the block of a segment
  int N, words, max_segments, segment_tokens;
};

inline constexpr int kIndexThreads = 256, kScanThreads = 1024;

/// Thread per (head, token, slot).
__global__ void __launch_bounds__(kIndexThreads)
    mark_selected_kernel(const InverseIndex index, const int* indices, int T, int HK, int slots,
                         std::int64_t first_head, std::int64_t count) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kIndexThreads + threadIdx.x;
  if (i >= count) return;
  const int slot = static_cast<int>(i % slots), t = static_cast<int>(i / slots % T);
  const std::int64_t head = i / slots / T, row = (first_head + head) / HK, kv_head = (first_head + head) % HK;
  const int block = indices[((row * T + t) * HK + kv_head) * slots + slot];
  if (block >= 0) atomicOr(index.bitmap + (head * index.N + block) * index.words + t / 32, 1u << (t % 32));
}

/// Warp per (head, block): token_begin[block] = its number of tokens, for now.
__global__ void __launch_bounds__(kIndexThreads)
    count_selected_kernel(const InverseIndex index, int block_size, std::int64_t count) {
  const std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * kIndexThreads + threadIdx.x) / kWarpSize;
  if (i >= count) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, block = static_cast<int>(i % index.N);
  const unsigned* words = index.bitmap + i * index.words;
  int tokens = 0;
  for (int w = block * block_size / 32 + lane; w < index.words; w += kWarpSize) tokens += __popc(words[w]);
  tokens = warp_sum(tokens);
  if (lane == 0) index.token_begin[i / index.N * (index.N + 1) + block] = tokens;
}

/// Block per head: counts to beginnings.
__global__ void __launch_bounds__(kScanThreads) scan_selected_kernel(const InverseIndex index) {
  __shared__ int2 warp_totals[kScanThreads / kWarpSize];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarpSize, warp = thread / kWarpSize;
  int* token_begin = index.token_begin + static_cast<std::int64_t>(blockIdx.x) * (index.N + 1);
  int* segment_begin = index.segment_begin + static_cast<std::int64_t>(blockIdx.x) * (index.N + 1);
  int2 before = {0, 0};  // tokens and segments of the chunks before
  for (int first = 0; first < index.N; first += kScanThreads) {
    const int block = first + thread;
    const int tokens = block < index.N ? token_begin[block] : 0;
    const int segments = (tokens + index.segment_tokens - 1) / index.segment_tokens;
    int2 sum = {tokens, segments};
#pragma unroll
    for (int offset = 1; offset < kWarpSize; offset *= 2) {
      const int x = __shfl_up_sync(kFullMask, sum.x, offset), y = __shfl_up_sync(kFullMask, sum.y, offset);
      if (lane >= offset) sum.x += x, sum.y += y;
    }
    if (lane == kWarpSize - 1) warp_totals[warp] = sum;
    __syncthreads();
    int2 total = {0, 0};
#pragma unroll 4
    for (int w = 0; w < kScanThreads / kWarpSize; ++w) {
      if (w == warp) sum.x += total.x, sum.y += total.y;
      total.x += warp_totals[w].x, total.y += warp_totals[w].y;
    }
    if (block < index.N) {
      token_begin[block] = before.x + sum.x - tokens;
      segment_begin[block] = before.y + sum.y - segments;
    }
    before.x += total.x, before.y += total.y;
    __syncthreads();
  }
  if (thread == 0) token_begin[index.N] = before.x, segment_begin[index.N] = before.y;
}

/// Warp per (head, block): writes the block's tokens in ascending order, and the block to its segments.
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
  for (int first = block * block_size / 32; first < index.words; first += kWarpSize) {
    unsigned word = first + lane < index.words ? words[first + lane] : 0u;
    const int mine = __popc(word);
    int end = mine;
#pragma unroll
    for (int offset = 1; offset < kWarpSize; offset *= 2) {
      const int x = __shfl_up_sync(kFullMask, end, offset);
      if (lane >= offset) end += x;
    }
    int to = next + end - mine;
    for (; word; word &= word - 1) tokens[to++] = (first + lane) * 32 + __ffs(static_cast<int>(word)) - 1;
    next += __shfl_sync(kFullMask, end, kWarpSize - 1);
  }
}

}  // namespace ssa::cuda
