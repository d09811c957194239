// The backward of dense attention for D = 64 in wgmma. Same tasks and order of additions as dense_backward.cuh; B
// operands come from shared memory once per warpgroup instead of once per warp.
#pragma once

#include "kernels/causal_attention/dense_backward.cuh"
#include "kernels/common/wgmma.cuh"

namespace ssa::cuda {

/// Step i computes the scores, d_v and d_k of its query tile, and meanwhile d_q of step i - 1, whose d_scores all warps
/// have left in shared memory: one barrier a step.
template <class C, class Visibility>
__global__ void __launch_bounds__(C::kThreads, 1)
    dense_backward_hopper_kernel(const DenseBackwardArgs a, const Visibility visible) {
#if SSA_WGMMA_CODE
  extern __shared__ __align__(1024) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<typename C::Shared*>(shared_bytes);
  constexpr int kSlices = C::kD / 16, kQ = C::kQueriesAtOnce;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarpSize, lane = thread % kWarpSize;
  const int warpgroup = thread / kWarpgroupThreads;
  BackwardTask& task = shared.task;
  task.take<C>(a, visible);
  const int u0 = task.u0, steps = task.steps();

  BackwardTask::Step now, before;
  const std::int64_t key_offset = task.key_position(a, u0) * C::kD, key_stride = a.HK * C::kD;
  load_rows<C::kThreads>(shared.k, a.k + key_offset, key_stride, a.U - u0, thread);
  load_rows<C::kThreads>(shared.v, a.v + key_offset, key_stride, a.U - u0, thread);
  if (steps > 0) load_queries<C>(shared, 0, a, task, now, thread);
  copy_async_commit();
  copy_async_wait<0>();
  fence_shared_for_wgmma();
  __syncthreads();

  const std::uint64_t key_rows = wgmma_operand(shared.k, warpgroup * kWarpgroupRows);
  const std::uint64_t value_rows = wgmma_operand(shared.v, warpgroup * kWarpgroupRows);
  float d_k[C::kD / 8][4] = {}, d_v[C::kD / 8][4] = {};
  const float scale2 = a.scale * kLog2e;

  // d_q of a step, 64 queries a warpgroup: the transpose of d_scores times the keys.
  const auto start_d_q = [&](float(&d_q)[C::kD / 8][4], int stage) {
    const std::uint64_t d_s = wgmma_operand(shared.d_scores[stage][warpgroup], 0), keys = wgmma_operand(shared.k, 0);
#pragma unroll
    for (int kk = 0; kk < C::kKeys / 16; ++kk)
      wgmma<true, true>(d_q, d_s + kk * kNextTransposed, keys + kk * kNextTransposed, kk > 0);
    wgmma_commit();
  };
  int seen = 0;  // steps that the task of the next key tile has done, when this warp last looked
  const auto add_d_q = [&](float(&d_q)[C::kD / 8][4], BackwardTask::Step step) {
    const int ahead = task.steps_ahead(step);
    if (seen < ahead) {
      if (lane == 0) seen = wait_for(task.steps_done(a) + 1, ahead);
      seen = __shfl_sync(kFullMask, seen, 0);
      __syncwarp();
    }
    const int t0 = task.query_tile(step) * C::kQueries + warp * 16;
    add_query_rows<C::kD>(a, task, task.head(step), t0, 0, d_q, a.accumulate_q || ahead > 0, lane);
  };
  static_assert(C::kQueries == 16 * C::kWarps && C::kParts == 2);

  // Straight-line code but for template parameters: where products are under way across a branch, the compiler would
  // serialise them.
  const auto products = [&]<bool kFirst, bool kMasked>(int stage) {
    const int t0 = task.query_tile(now) * C::kQueries;
    float d_q[C::kD / 8][4];
    wgmma_fence();
    if constexpr (!kFirst) start_d_q(d_q, stage ^ 1);
#pragma unroll
    for (int part = 0; part < C::kParts; ++part) {
      // Transposed scores and d_probability: keys are the rows, so that they are A operands of d_v and d_k as they are.
      float p[kQ / 8][4], dp[kQ / 8][4];
      const std::uint64_t q_rows = wgmma_operand(shared.q[stage], part * kQ);
      const std::uint64_t d_out_rows = wgmma_operand(shared.d_out[stage], part * kQ);
      wgmma_fence();
#pragma unroll
      for (int kk = 0; kk < kSlices; ++kk)
        wgmma<false, false>(p, key_rows + kk * kNextAlongRow, q_rows + kk * kNextAlongRow, kk > 0);
      wgmma_commit();
      if constexpr (!kFirst) {
        if (part == 0) {
          wgmma_wait<1>();
          add_d_q(d_q, before);
        }
      }
      wgmma_fence();
#pragma unroll
      for (int kk = 0; kk < kSlices; ++kk)
        wgmma<false, false>(dp, value_rows + kk * kNextAlongRow, d_out_rows + kk * kNextAlongRow, kk > 0);
      wgmma_commit();
      wgmma_wait<1>();  // the scores are there, and the part before is done

      const float* lse = shared.lse[stage] + part * kQ + (lane & 3) * 2;
      const float* delta = shared.delta[stage] + part * kQ + (lane & 3) * 2;
#pragma unroll
      for (int n = 0; n < kQ / 8; ++n) {
        const float2 l = *reinterpret_cast<const float2*>(lse + n * 8);
#pragma unroll
        for (int e = 0; e < 4; ++e) p[n][e] = exp2_fast(p[n][e] * scale2 - ((e & 1) ? l.y : l.x) * kLog2e);
      }
      if constexpr (kMasked) {
#pragma unroll
        for (int n = 0; n < kQ / 8; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int t = t0 + part * kQ + n * 8 + (lane & 3) * 2 + (e & 1),
                      u = u0 + warp * 16 + (lane >> 2) + (e & 2) * 4;
            if (!visible.sees(t, u)) p[n][e] = 0;  // also where lse is -infinity
          }
      }
      std::uint32_t p_packed[kQ / 16][4], d_s[kQ / 16][4];
#pragma unroll
      for (int m = 0; m < kQ / 16; ++m) pack_a(p_packed[m], p[2 * m], p[2 * m + 1]);
      wgmma_fence();
#pragma unroll
      for (int m = 0; m < kQ / 16; ++m) wgmma<true>(d_v, p_packed[m], d_out_rows + m * kNextTransposed, true);
      wgmma_commit();
      wgmma_wait<1>();  // d_probability is there

#pragma unroll
      for (int n = 0; n < kQ / 8; ++n) {
        const float2 d = *reinterpret_cast<const float2*>(delta + n * 8);
#pragma unroll
        for (int e = 0; e < 4; ++e) dp[n][e] = p[n][e] * (dp[n][e] - ((e & 1) ? d.y : d.x));
      }
      auto& d_scores = shared.d_scores[stage][part];
      unsigned char* bytes = reinterpret_cast<unsigned char*>(d_scores.data) + (lane & 3) * 4;
      const int key = warp * 16 + (lane >> 2);
#pragma unroll
      for (int m = 0; m < kQ / 16; ++m) {
        pack_a(d_s[m], dp[2 * m], dp[2 * m + 1]);
        *reinterpret_cast<std::uint32_t*>(bytes + d_scores.offset(key, 2 * m)) = d_s[m][0];
        *reinterpret_cast<std::uint32_t*>(bytes + d_scores.offset(key + 8, 2 * m)) = d_s[m][1];
        *reinterpret_cast<std::uint32_t*>(bytes + d_scores.offset(key, 2 * m + 1)) = d_s[m][2];
        *reinterpret_cast<std::uint32_t*>(bytes + d_scores.offset(key + 8, 2 * m + 1)) = d_s[m][3];
      }
      wgmma_fence();
#pragma unroll
      for (int m = 0; m < kQ / 16; ++m) wgmma<true>(d_k, d_s[m], q_rows + m * kNextTransposed, true);
      wgmma_commit();
    }
    wgmma_wait<0>();
  };

  for (int step = 0; step < steps; ++step) {
    const int stage = step & 1;
    // The last barrier came after the additions of step - 2. Announcing them takes a fence, so every other step does
    // it.
    if (thread == 0 && step % 2 == 1) announce(task.steps_done(a), step - 1);
    __syncwarp();
    const BackwardTask::Step next = task.after(now);
    if (step + 1 < steps) load_queries<C>(shared, stage ^ 1, a, task, next, thread);
    copy_async_commit();

    const int t0 = task.query_tile(now) * C::kQueries, t_last = min(a.T, t0 + C::kQueries) - 1;
    const bool masked = u0 + C::kKeys > visible.key_end(t0) || u0 < visible.key_begin(t_last);
    if (step == 0)
      products.template operator()<true, true>(stage);
    else if (masked)
      products.template operator()<false, true>(stage);
    else
      products.template operator()<false, false>(stage);
    before = now;
    now = next;
    copy_async_wait<0>();
    fence_shared_for_wgmma();  // the copies and d_scores were ordinary writes
    __syncthreads();           // d_scores are all there, and so is the next stage; every warp has left this one
  }
  if (steps > 0) {  // d_q of the last step
    float d_q[C::kD / 8][4];
    wgmma_fence();
    start_d_q(d_q, (steps - 1) & 1);
    wgmma_wait<0>();
    add_d_q(d_q, before);
  }
  end_task(a, task, [&](bool add) { write_keys<C::kD>(a, task, d_k, d_v, add, warp, lane); });
#endif
}

}  // namespace ssa::cuda
