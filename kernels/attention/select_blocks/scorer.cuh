// Scores of a warp's tokens against the mean keys of all blocks, 16 blocks at a time.
#pragma once

#include "config.cuh"

namespace ssa::cuda {

/// The tokens of one CTA and of the calling thread's warp.
template <class C>
struct SelectTask {
  int thread, warp, lane;
  int kv_head, G;  ///< G query heads per key/value head
  std::int64_t b;  ///< batch index
  int cta_t0, t0;  ///< first token of the CTA, of the warp
  int first;       ///< first block of the document piece, from which on blocks are counted below

  /// CTA (i, kv_head, b) takes the i-th C::kCtaTokens tokens from the end: the longest tasks start first.
  __device__ __forceinline__ explicit SelectTask(const SelectArgs& a)
      : thread(static_cast<int>(threadIdx.x)),
        warp(thread / kWarpSize),
        lane(thread % kWarpSize),
        kv_head(static_cast<int>(blockIdx.y)),
        G(a.HQ / a.HK),
        b(blockIdx.z),
        cta_t0(a.t_begin + static_cast<int>(gridDim.x - 1 - blockIdx.x) * C::kCtaTokens),
        t0(cta_t0 + warp * C::kTokens),
        first(C::kDocuments ? a.first_block(b, cta_t0) : 0) {}

  /// Complete blocks of the piece at token t.
  __device__ __forceinline__ int complete(const SelectArgs& a, int t) const {
    return ((t + 1) >> a.block_shift) - (C::kDocuments ? first : 0);
  }
};

/// Scores of 16 blocks: rows are blocks, columns the group's heads. Not scaled.
template <class C>
using ScoreTile = float[C::kColumns][4];

template <class C>
class BlockScorer {
 public:
  __device__ __forceinline__ BlockScorer(typename C::Shared& shared, const SelectArgs& a, const SelectTask<C>& task)
      : shared_(shared),
        a_(a),
        task_(task),
        complete_(task.complete(a, min(a.T, task.cta_t0 + C::kCtaTokens) - 1)),
        tiles_((complete_ + C::kTile - 1) / C::kTile),
        stride_(static_cast<std::int64_t>(a.HK) * kD),
        means_(a.k_mean + (task.b * a.N + (C::kDocuments ? task.first : 0)) * stride_ + task.kv_head * kD) {
    load_queries();
  }

  /// Calls visit(token, first block, scores, interior) for each of the warp's tokens and each 16 blocks, up to the last
  /// block that is complete for the CTA's last token; and end_chunk(first block) after each C::kChunk blocks. All
  /// threads of the CTA call it. With kSplitInterior, interior is true where the 16 blocks are complete for all of the
  /// warp's tokens and block 0 is not among them: a copy of the code without branches, in which the products and
  /// exponentials of the tokens overlap.
  template <bool kSplitInterior, class Visit, class EndChunk>
  __device__ __forceinline__ void for_each_tile(Visit&& visit, EndChunk&& end_chunk) {
    if (tiles_ > 0) load_means(0, 0);
    cp_async_commit_group();
    for (int tile = 0; tile < tiles_; ++tile) {
      const int stage = tile & 1;
      cp_async_wait_group<0>();
      __syncthreads();  // this stage has arrived, and every warp has finished with the other one
      if (tile + 1 < tiles_) load_means(tile + 1, stage ^ 1);
      cp_async_commit_group();
      const std::uint32_t means = shared_address(&shared_.means[stage]);
      const int parts = min(C::kTile, complete_ - tile * C::kTile + 15) / 16;
#pragma unroll 1
      for (int part = 0; part < parts; ++part) {
        const int first = tile * C::kTile + part * 16;
        if (kSplitInterior && first > 0 && first + 16 <= task_.complete(a_, task_.t0))
          score(means, part, first, true, visit);
        else
          score(means, part, first, false, visit);
      }
      if ((tile + 1) * C::kTile % C::kChunk == 0 || tile + 1 == tiles_)
        end_chunk(tile * C::kTile / C::kChunk * C::kChunk);
    }
    __syncthreads();
  }

  /// Sets the scores of blocks that are not complete for token i to -infinity.
  __device__ __forceinline__ void apply_mask(int i, int first, ScoreTile<C>& scores) const {
    const int complete = task_.complete(a_, task_.t0 + i), block = first + (task_.lane >> 2);
    if (first + 16 <= complete) return;
#pragma unroll
    for (int n = 0; n < C::kColumns; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if (block + e / 2 * 8 >= complete) scores[n][e] = -kInfinity;
  }

 private:
  static constexpr int kD = C::kD, kTokens = C::kTokens;
  static constexpr int kTogether = kTokens < 4 ? kTokens : 4;  ///< tokens whose products are independent of each other

  /// B operands: column = head, k = D. Heads that the group does not have are 0.
  __device__ __forceinline__ void load_queries() {
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      const __nv_bfloat16* from =
          a_.q + (((task_.b * a_.T + min(task_.t0 + i, a_.T - 1)) * a_.HK + task_.kv_head) * task_.G) * kD;
#pragma unroll
      for (int n = 0; n < C::kColumns; ++n) {
        const int head = n * 8 + (task_.lane >> 2);
        const __nv_bfloat16* column = from + min(head, task_.G - 1) * kD + (task_.lane & 3) * 2;
#pragma unroll
        for (int kk = 0; kk < kD / 16; ++kk)
#pragma unroll
          for (int half = 0; half < 2; ++half)
            q_[i][kk][n][half] =
                head < task_.G ? *reinterpret_cast<const std::uint32_t*>(column + kk * 16 + half * 8) : 0u;
      }
    }
  }

  __device__ __forceinline__ void load_means(int tile, int stage) {
    load_rows<C::kThreads>(shared_.means[stage], means_ + static_cast<std::int64_t>(tile) * C::kTile * stride_, stride_,
                           a_.N - (C::kDocuments ? task_.first : 0) - tile * C::kTile, task_.thread);
  }

  template <class Visit>
  __device__ __forceinline__ void score(std::uint32_t means, int part, int first, bool interior, Visit& visit) {
    using Means = Tile<C::kTile, kD>;
    std::uint32_t mean[kD / 16][4];
#pragma unroll
    for (int kk = 0; kk < kD / 16; ++kk)
      ldmatrix(mean[kk],
               means + Means::offset(16, 0) * part + Means::offset(task_.lane & 15, 2 * kk + (task_.lane >> 4)));
#pragma unroll
    for (int i0 = 0; i0 < kTokens; i0 += kTogether) {
      float scores[kTogether][C::kColumns][4] = {};
#pragma unroll
      for (int kk = 0; kk < kD / 16; ++kk)
#pragma unroll
        for (int i = 0; i < kTogether; ++i)
#pragma unroll
          for (int n = 0; n < C::kColumns; ++n) mma(scores[i][n], mean[kk], q_[i0 + i][kk][n][0], q_[i0 + i][kk][n][1]);
#pragma unroll
      for (int i = 0; i < kTogether; ++i) visit(i0 + i, first, scores[i], interior);
    }
  }

  typename C::Shared& shared_;
  const SelectArgs& a_;
  const SelectTask<C>& task_;
  const int complete_;  ///< blocks that are complete for the CTA's last token
  const int tiles_;
  const std::int64_t stride_;
  const __nv_bfloat16* means_;
  std::uint32_t q_[kTokens][kD / 16][C::kColumns][2];
};

}  // namespace ssa::cuda
