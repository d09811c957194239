// The softmax denominators over a token's complete blocks, per query head.
#pragma once

#include "scorer.cuh"

namespace ssa::cuda {

/// Each lane sums the exponentials of its own rows of the score tiles, for two heads of each 8 columns; finish() adds
/// up the lanes. Exponents are relative to `shift`: the score of block 0, which needs no maximum, because an f32 sum is
/// as exact at any size. Only if a sum overflows, the pass is repeated with running maxima as shifts.
template <class C>
class SoftmaxDenominator {
 public:
  __device__ __forceinline__ SoftmaxDenominator(const BlockScorer<C>& scorer, const SelectTask<C>& task, float scale2)
      : scorer_(scorer), task_(task), scale2_(scale2) {
    reset(0);
  }

  __device__ __forceinline__ void add(int i, int first, ScoreTile<C>& scores, bool interior) {
    if (!interior) {
      scorer_.apply_mask(i, first, scores);
      if (first == 0)
#pragma unroll
        for (int n = 0; n < C::kColumns; ++n)
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            const float score = __shfl_sync(kFullMask, scores[n][c], task_.lane & 3);
            shift_[i][n][c] = score == -kInfinity ? 0.0f : __fmul_rn(score, scale2_);  // then all others are masked too
          }
    }
#pragma unroll
    for (int n = 0; n < C::kColumns; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) row_sum_[i][n][e & 1] += exp2_fast(scores[n][e] * scale2_ - shift_[i][n][e & 1]);
  }

  /// Whether a sum of this lane is infinite, NaN, or may become infinite when the lanes are added up.
  __device__ __forceinline__ bool overflows() const {
    bool overflow = false;
#pragma unroll
    for (int i = 0; i < C::kTokens; ++i)
#pragma unroll
      for (int n = 0; n < C::kColumns; ++n)
#pragma unroll
        for (int c = 0; c < 2; ++c) overflow = overflow || !(row_sum_[i][n][c] < kLargestSum);
    return overflow;
  }

  /// Before a pass with add_with_row_max.
  __device__ __forceinline__ void start_row_max() { reset(kLowest); }

  __device__ __forceinline__ void add_with_row_max(int i, int first, ScoreTile<C>& scores) {
    scorer_.apply_mask(i, first, scores);
#pragma unroll
    for (int n = 0; n < C::kColumns; ++n)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const float upper = scores[n][c] * scale2_, lower = scores[n][2 + c] * scale2_;
        const float row_max_new = fmaxf(shift_[i][n][c], fmaxf(upper, lower));
        row_sum_[i][n][c] = row_sum_[i][n][c] * exp2_fast(shift_[i][n][c] - row_max_new) +
                            exp2_fast(upper - row_max_new) + exp2_fast(lower - row_max_new);
        shift_[i][n][c] = row_max_new;
      }
  }

  /// After a pass with add_with_row_max: gives all lanes of a column the same maximum.
  __device__ __forceinline__ void share_row_max() {
#pragma unroll
    for (int i = 0; i < C::kTokens; ++i)
#pragma unroll
      for (int n = 0; n < C::kColumns; ++n)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float row_max = shift_[i][n][c];
#pragma unroll
          for (int offset = 4; offset < kWarpSize; offset *= 2)
            row_max = fmaxf(row_max, __shfl_xor_sync(kFullMask, row_max, offset));
          row_sum_[i][n][c] *= exp2_fast(shift_[i][n][c] - row_max);
          shift_[i][n][c] = row_max;
        }
  }

  /// Writes log2 of the denominators. Infinity for heads that the group does not have: their softmax is 0.
  __device__ __forceinline__ void finish(float (&log2_denominator)[C::kTokens][C::kColumns][2]) const {
#pragma unroll
    for (int i = 0; i < C::kTokens; ++i)
#pragma unroll
      for (int n = 0; n < C::kColumns; ++n)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float total = row_sum_[i][n][c];
#pragma unroll
          for (int offset = 4; offset < kWarpSize; offset *= 2) total += __shfl_xor_sync(kFullMask, total, offset);
          const bool exists = n * 8 + (task_.lane & 3) * 2 + c < task_.G;
          const float value = shift_[i][n][c] + __log2f(total);
          log2_denominator[i][n][c] = exists & (total > 0) ? value : kInfinity;
        }
  }

 private:
  static constexpr float kLargestSum = 1e37f;  ///< of one lane: a larger one may become infinite over the lanes
  static constexpr float kLowest = -1e30f;     ///< maximum of a lane that has seen no score

  __device__ __forceinline__ void reset(float shift) {
#pragma unroll
    for (int i = 0; i < C::kTokens; ++i)
#pragma unroll
      for (int n = 0; n < C::kColumns; ++n)
#pragma unroll
        for (int c = 0; c < 2; ++c) shift_[i][n][c] = shift, row_sum_[i][n][c] = 0;
  }

  const BlockScorer<C>& scorer_;
  const SelectTask<C>& task_;
  const float scale2_;
  float shift_[C::kTokens][C::kColumns][2], row_sum_[C::kTokens][C::kColumns][2];
};

}  // namespace ssa::cuda
