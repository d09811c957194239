// The steps of the backward on Hopper with D = 128, where a head lies in two tiles of 64 columns, and what they share
// with those of D = 64. README.md in this directory explains the schedule.
#pragma once

#include "config.cuh"
#include "kernels/common/ptx/tma.cuh"

namespace ssa::cuda {

#if SSA_WGMMA_CODE
/// What a step's scores and d_p start from, which their products are added to: -lse / scale and -delta.
template <int kTiles>
__device__ __forceinline__ void start_from_values(float (&scores)[kTiles][4], float (&d_p)[kTiles][4],
                                                  const float* row_values, int lane) {
  const float4* values = reinterpret_cast<const float4*>(row_values) + (lane & 3);
#pragma unroll
  for (int c = 0; c < kTiles / 2; ++c) {
    const float4 lse = values[c * 4], delta = values[(kTiles / 2 + c) * 4];
#pragma unroll
    for (int half = 0; half < 4; half += 2) {
      scores[2 * c][half] = lse.x, scores[2 * c][half + 1] = lse.y;
      scores[2 * c + 1][half] = lse.z, scores[2 * c + 1][half + 1] = lse.w;
      d_p[2 * c][half] = delta.x, d_p[2 * c][half + 1] = delta.y;
      d_p[2 * c + 1][half] = delta.z, d_p[2 * c + 1][half + 1] = delta.w;
    }
  }
  warpgroup_fence_operand(scores), warpgroup_fence_operand(d_p);
}

/// Scores to probabilities.
template <int kTiles>
__device__ __forceinline__ void exponentials(float (&scores)[kTiles][4], float scale2) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) scores[n][e] = exp2_fast(scores[n][e] * scale2);
}

/// Makes 0 what queries from t0 on do not see of this thread's keys; the block's start at own0.
template <class Mask, int kTiles>
__device__ __forceinline__ void apply_mask(float (&p)[kTiles][4], const Mask& mask, int t0, int own0, int lane) {
  const int u = own0 + fresh_thread() / kWarpSize * 16 + (lane >> 2);
#pragma unroll
  for (int n = 0; n < kTiles; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      if (!mask.is_visible(t0 + n * 8 + (lane & 3) * 2 + (e & 1), u + (e & 2) * 4)) p[n][e] = 0;
}

/// A warpgroup's sum for d_q, kTiles * 8 columns from the first box on, to where it is added from. Chunks of 16 bytes
/// are swizzled by the row; odd rows take the columns in another order, so that the eight rows of an accumulator hit
/// different banks.
template <int kRows, int kTiles>
__device__ __forceinline__ void put_sum(float (*boxes)[kRows * 32], const float (&sum)[kTiles][4], float scale,
                                        int warp, int lane) {
  const int g = lane >> 2;
  const bool odd = g & 1;
  unsigned char* row = reinterpret_cast<unsigned char*>(boxes) + (warp % 4 * 16 + g) * 128 + (lane & 1) * 8;
  const int place = (odd ? 4 : 0) ^ (lane >> 1 & 1) ^ g;
#pragma unroll
  for (int d = 0; d < kTiles; ++d) {
    float four[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) four[e] = (odd ? sum[d ^ 2][e] : sum[d][e]) * scale;
    unsigned char* to = row + d / 4 * (kRows * 128) + ((d % 4 * 2) ^ place) * 16;
    *reinterpret_cast<float2*>(to) = make_float2(four[0], four[1]);
    *reinterpret_cast<float2*>(to + 8 * 128) = make_float2(four[2], four[3]);
  }
}

/// All steps of shared.task, of which there is one at least, added to d_k and d_v, this warpgroup's own rows x D; and
/// their sums for d_q handed to the warp that adds them. Scores, d_p and what is summed cannot all stay in registers: a
/// warpgroup's exponentials run beside the other's products, not beside its own.
template <class C, class Mask>
__device__ __forceinline__ void add_steps_of_halves(typename C::Shared& shared, const DenseBackwardHopperArgs& a,
                                                    const Mask& mask, int own0, int warpgroup,
                                                    float (&d_k)[C::kD / 8][4], float (&d_v)[C::kD / 8][4]) {
  static_assert(C::kHalves == C::kWarpgroups, "each warpgroup sums a half of d_q");
  using Ring = PipelineState<C::kStages>;
  using ScoreRing = PipelineState<C::kScoreStages>;
  using SumRing = PipelineState<C::kSumStages>;
  constexpr int kN = C::kStepRows, kSlices = C::kHalfD / 16;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int steps = uniform(shared.task.steps), heads = uniform(shared.task.heads);
  const int first_own = own0 + warpgroup * kWarpgroupRows;
  const float scale2 = a.scale * kLog2e;
  std::uint32_t p[kN / 16][4], d_s[kN / 16][4];
  float scores[kN / 8][4], d_p[kN / 8][4], d_q[C::kHalfD / 8][4];

  // own rows x kN, over D.
  const auto start_scores = [&](int stage) {
#pragma unroll
    for (int half = 0; half < C::kHalves; ++half) {
      const std::uint64_t k_rows = wgmma_operand(shared.own[half], warpgroup * kWarpgroupRows);
      const std::uint64_t q_rows = wgmma_operand(shared.passing[stage][half], 0);
#pragma unroll
      for (int kk = 0; kk < kSlices; ++kk)
        wgmma<false>(scores, k_rows + kk * kNextAlongRow, q_rows + kk * kNextAlongRow, true);
    }
    wgmma_commit();
#pragma unroll
    for (int half = 0; half < C::kHalves; ++half) {
      const std::uint64_t v_rows = wgmma_operand(shared.own[C::kHalves + half], warpgroup * kWarpgroupRows);
      const std::uint64_t d_out_rows = wgmma_operand(shared.passing[stage][C::kHalves + half], 0);
#pragma unroll
      for (int kk = 0; kk < kSlices; ++kk)
        wgmma<false>(d_p, v_rows + kk * kNextAlongRow, d_out_rows + kk * kNextAlongRow, true);
    }
    wgmma_commit();
  };
  // d_v and d_k += own rows x D, over kN.
  const auto start_values = [&](int stage) {
    const std::uint64_t d_out_rows = wgmma_operand<C::kD>(shared.passing[stage][C::kHalves], 0);
    wgmma_fence();
#pragma unroll
    for (int m = 0; m < kN / 16; ++m) wgmma<true>(d_v, p[m], d_out_rows + m * kNextTransposed, true);
    wgmma_commit();
  };
  const auto start_keys = [&](int stage) {
    const std::uint64_t q_rows = wgmma_operand<C::kD>(shared.passing[stage][0], 0);
    wgmma_fence();
#pragma unroll
    for (int m = 0; m < kN / 16; ++m) wgmma<true>(d_k, d_s[m], q_rows + m * kNextTransposed, true);
    wgmma_commit();
  };
  // This warpgroup's half of a step's d_q, kN x kHalfD, over all own rows.
  const auto start_queries = [&](int step) {
    const ScoreRing at = ScoreRing::at(step);
    shared.d_s_full[at.stage()].wait(at.parity());
    const std::uint64_t d_s_rows = wgmma_operand(shared.d_s[at.stage()], 0),
                        k_rows = wgmma_operand(shared.own[warpgroup], 0);
    wgmma_fence();
#pragma unroll
    for (int m = 0; m < C::kOwnRows / 16; ++m)
      wgmma<true>(d_q, d_s_rows + m * kNextTransposed, k_rows + m * kNextTransposed, m > 0);
    wgmma_commit();
  };
  // After the wait for its products.
  const auto put_queries = [&](int step) {
    warpgroup_fence_operand(d_q);
    shared.d_s_empty[ScoreRing::at(step).stage()].arrive_warp(lane);
    const SumRing at = SumRing::at(step);
    shared.d_q_empty[at.stage()].wait(at.parity() ^ 1);
    const int thread = fresh_thread();
    put_sum<kN>(shared.d_q[at.stage()] + warpgroup * (C::kHalfD / 32), d_q, a.scale, thread / kWarpSize,
                thread % kWarpSize);
    fence_view_async_shared();
    shared.d_q_full[at.stage()].arrive_warp(lane);
  };
  // This warpgroup's rows of d_s, to where both warpgroups' are summed.
  const auto put_d_s = [&](int step) {
    const ScoreRing at = ScoreRing::at(step);
    shared.d_s_empty[at.stage()].wait(at.parity() ^ 1);
    const int thread = fresh_thread();
#pragma unroll
    for (int m = 0; m < kN / 16; ++m)
      stmatrix_16x16(shared.d_s[at.stage()], thread / kWarpSize * 16, m, d_s[m], thread % kWarpSize);
    fence_view_async_shared();
    shared.d_s_full[at.stage()].arrive_warp(lane);
  };

  // A step makes d_q of the step before it, whose d_s the other warpgroup has mostly put by then.
  int tile = shared.task.last_tile, heads_left = heads;
  const auto step = [&]<bool kFirst>(int i) {
    const Ring at = Ring::at(i);
    const int stage = at.stage();
    shared.full[stage].wait(at.parity());
    start_from_values(scores, d_p, shared.values[stage], fresh_thread() % kWarpSize);
    wgmma_fence();
    start_scores(stage);
    wgmma_wait<1>();
    warpgroup_fence_operand(scores);
    exponentials(scores, scale2);
    const int t0 = tile * kN;
    if (t0 < mask.query_begin(first_own + kWarpgroupRows - 1) || t0 + kN > mask.query_end(first_own))
      apply_mask(scores, mask, t0, own0, lane);
    if (--heads_left == 0) heads_left = heads, --tile;
    wgmma_wait<0>();
    warpgroup_fence_operand(d_p);
#pragma unroll
    for (int n = 0; n < kN / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) d_p[n][e] *= scores[n][e];
#pragma unroll
    for (int m = 0; m < kN / 16; ++m) {
      pack_a(p[m], scores[2 * m], scores[2 * m + 1]);
      pack_a(d_s[m], d_p[2 * m], d_p[2 * m + 1]);
    }
    start_values(stage);
    put_d_s(i);
    if constexpr (!kFirst) start_queries(i - 1);
    start_keys(stage);
    if constexpr (!kFirst) {
      wgmma_wait<1>();
      put_queries(i - 1);
    }
    wgmma_wait<0>();
    warpgroup_fence_operand(d_k), warpgroup_fence_operand(d_v);
    shared.empty[stage].arrive_warp(lane);
  };
  shared.own_full.wait(0);
  step.template operator()<true>(0);
  for (int i = 1; i < steps; ++i) step.template operator()<false>(i);
  start_queries(steps - 1);
  wgmma_wait<0>();
  put_queries(steps - 1);
}
#endif

}  // namespace ssa::cuda
