// The schedule of select_blocks: two passes over the block means, no matrix of scores in memory. README.md explains it.
#pragma once

#include "denominator.cuh"
#include "scorer.cuh"
#include "top_k.cuh"

namespace ssa::cuda {

/// importance[16 blocks] = sum over the group's heads of the softmax, added in a fixed order.
template <class C>
__device__ __forceinline__ void store_importance(float* importance, const ScoreTile<C>& scores,
                                                 const float (&log2_denominator)[C::kColumns][2], float scale2,
                                                 int lane) {
  float upper = 0, lower = 0;
#pragma unroll
  for (int n = 0; n < C::kColumns; ++n)
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      upper += exp2_fast(scores[n][c] * scale2 - log2_denominator[n][c]);
      lower += exp2_fast(scores[n][2 + c] * scale2 - log2_denominator[n][c]);
    }
  // Over the quad: even lanes add the upper row, odd lanes the lower row.
  const bool odd = lane & 1;
  float both = (odd ? lower : upper) + __shfl_xor_sync(kFullMask, odd ? upper : lower, 1);
  both += __shfl_xor_sync(kFullMask, both, 2);
  float* to = importance + (lane >> 2);
  if ((lane & 2) == 0) to[odd ? 8 : 0] = fmaxf(both, 0.0f);  // NaN becomes 0
}

/// Updates the lists of the warp's tokens by a chunk of importance that begins at block first_block.
template <class C>
__device__ __forceinline__ void choose_from_chunk(typename C::Shared& shared, const SelectArgs& a,
                                                  const SelectTask<C>& task, int first_block) {
#pragma unroll 1
  for (int token = task.warp * C::kTokens; token < (task.warp + 1) * C::kTokens; ++token) {
    if (task.cta_t0 + token >= a.T) break;
    const int own = ((task.cta_t0 + token) >> a.block_shift) - (C::kDocuments ? task.first : 0);
    const bool split = a.reference && own >= a.block_size && a.block_counts > a.block_size / 2;
    // Reference mode chooses separately from the newest aligned block_size blocks, which are in one chunk.
    const int newest = split ? own >> a.block_shift << a.block_shift : own;
    const float* importance = shared.importance[token];
    int* candidates = shared.candidates[task.warp];
    int2 length = shared.length[token];
    BlockList list = shared.list(token, a.list_capacity);
    list.length = length.x;
    keep_most_important<C::kChunk>(list, {importance, first_block, 0, min(newest - first_block, C::kChunk)},
                                   split ? a.block_size / 2 : a.block_counts - 1, candidates, task.lane);
    length.x = list.length;
    if (newest >= first_block && own - first_block <= C::kChunk) {
      BlockList newest_list = {list.importance + length.x, list.blocks + length.x, 0};
      keep_most_important<C::kChunk>(newest_list, {importance, first_block, newest - first_block, own - first_block},
                                     a.block_size / 2 - 1, candidates, task.lane);
      length.y = newest_list.length;
    }
    __syncwarp();  // all lanes have read the lengths
    if (task.lane == 0) shared.length[token] = length;
  }
  __syncwarp();
}

/// indices = the lists of the warp's tokens, their own blocks, then -1.
template <class C>
__device__ __forceinline__ void store_indices(typename C::Shared& shared, const SelectArgs& a,
                                              const SelectTask<C>& task) {
#pragma unroll 1
  for (int token = task.warp * C::kTokens; token < (task.warp + 1) * C::kTokens; ++token) {
    const int t = task.cta_t0 + token;
    if (t >= a.T) break;
    const int length = shared.length[token].x + shared.length[token].y;
    const int* blocks = shared.list(token, a.list_capacity).blocks;
    int* to = a.indices + ((task.b * a.T + t) * a.HK + task.kv_head) * a.slots;
    for (int s = task.lane; s < a.slots; s += kWarpSize)
      to[s] = s < length ? blocks[s] + (C::kDocuments ? task.first : 0) : s == length ? t >> a.block_shift : -1;
  }
}

/// CTA (i, kv_head, b): see SelectTask.
template <class C>
__global__ void __launch_bounds__(C::kThreads, C::kCtasPerSm)
    select_blocks_kernel(const __grid_constant__ SelectArgs a) {
  extern __shared__ __align__(1024) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<typename C::Shared*>(shared_bytes);
  const SelectTask<C> task(a);
  const float scale2 = a.scale * kLog2e;
  BlockScorer<C> scorer(shared, a, task);
  const auto nothing = [](int) {};

  // 1. Softmax denominators.
  SoftmaxDenominator<C> denominator(scorer, task, scale2);
  scorer.template for_each_tile<true>(
      [&](int i, int first, ScoreTile<C>& scores, bool interior) { denominator.add(i, first, scores, interior); },
      nothing);
  if (__syncthreads_or(denominator.overflows())) {
    denominator.start_row_max();
    scorer.template for_each_tile<false>(
        [&](int i, int first, ScoreTile<C>& scores, bool) { denominator.add_with_row_max(i, first, scores); }, nothing);
    denominator.share_row_max();
  }
  float log2_denominator[C::kTokens][C::kColumns][2];
  denominator.finish(log2_denominator);

  // 2. Importance of each block, and the choice after each chunk.
  if (task.lane < C::kTokens) shared.length[task.warp * C::kTokens + task.lane] = {0, 0};
  scorer.template for_each_tile<false>(
      [&](int i, int first, ScoreTile<C>& scores, bool) {
        store_importance<C>(shared.importance[task.warp * C::kTokens + i] + first % C::kChunk, scores,
                            log2_denominator[i], scale2, task.lane);
      },
      [&](int first_block) {
        __syncwarp();
        choose_from_chunk<C>(shared, a, task, first_block);
      });

  // 3. The chosen blocks.
  store_indices<C>(shared, a, task);
}

}  // namespace ssa::cuda
