// The backward of dense attention on Hopper: one pass, five products, bit-repeatable. A task owns keys, and their d_k
// and d_v stay in registers; its part of d_q is added in global memory, key tile after key tile. The steps of D = 128
// are in dense_backward_hopper_halves.cuh. README.md in this directory explains the schedule.
#pragma once

#include "config.cuh"
#include "dense_backward_hopper_halves.cuh"
#include "kernels/common/ptx/tma.cuh"

namespace ssa::cuda {

/// Where a row's value stands: a lane of an accumulator's columns (8 n + 2 (lane % 4) + 0, 1) then finds its values of
/// n = 2 c and 2 c + 1 in four consecutive ones.
__device__ __forceinline__ int row_value_place(int i) {
  return (i & ~15) | (i >> 1 & 3) << 2 | (i >> 3 & 1) << 1 | (i & 1);
}

/// Lays lse and delta out by heads, as DenseBackwardHopperArgs::row_values, and zeroes the counters.
template <class C>
__global__ void __launch_bounds__(256) row_values_kernel(float* row_values, const float* lse, const float* delta, int T,
                                                         int HQ, float inverse_scale, int* counters, int count) {
  constexpr int kRows = C::kStepRows, kHeads = 32;
  __shared__ float tile[2][kHeads][kRows + 1];
  const int t0 = static_cast<int>(blockIdx.x) * kRows, head0 = static_cast<int>(blockIdx.y) * kHeads;
  const std::int64_t row = blockIdx.z;
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < kRows * kHeads; i += 256) {
    const int place = row_value_place(i / kHeads), t = t0 + i / kHeads, head = head0 + i % kHeads;
    const bool inside = t < T && head < HQ;
    const std::int64_t from = inside ? (row * T + t) * HQ + head : 0;
    const float l = inside ? lse[from] : -kInfinity;
    tile[0][i % kHeads][place] = l == -kInfinity ? -kInfinity : -l * inverse_scale;
    tile[1][i % kHeads][place] = inside ? -delta[from] : 0.0f;
  }
  __syncthreads();
  for (int i = thread; i < kRows * kHeads * 2; i += 256) {
    const int which = i / kRows % 2, head = i / kRows / 2;
    if (head0 + head < HQ)
      row_values[(((row * HQ + head0 + head) * gridDim.x + blockIdx.x) * 2 + which) * kRows + i % kRows] =
          tile[which][head][i % kRows];
  }
  const int blocks = static_cast<int>(gridDim.x * gridDim.y * gridDim.z);
  const int block = static_cast<int>((blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x);
  for (int i = block * 256 + thread; i < count; i += blocks * 256) counters[i] = 0;
}

#if SSA_WGMMA_CODE
/// One row of float4: stored, or added to what is there.
__device__ __forceinline__ void put(float* to, float4 v, float scale, bool add) {
  v = make_float4(v.x * scale, v.y * scale, v.z * scale, v.w * scale);
  auto* target = reinterpret_cast<float4*>(to);
  if (add)
    reduce_add(target, v);
  else
    *target = v;
}
#endif

/// One block per task.
template <class C, class Mask>
__global__ void __launch_bounds__(C::kThreads, 1)
    dense_backward_hopper_kernel(const __grid_constant__ DenseBackwardHopperArgs a, const Mask mask) {
#if SSA_WGMMA_CODE
  extern __shared__ __align__(1024) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<typename C::Shared*>(shared_bytes);
  using Ring = PipelineState<C::kStages>;
  using ScoreRing = PipelineState<C::kScoreStages>;
  using SumRing = PipelineState<C::kSumStages>;
  constexpr int kSlices = C::kD / 16, kN = C::kStepRows;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarpSize, lane = thread % kWarpSize;
  const int warpgroup = uniform(thread / kWarpgroupThreads);

  if (thread == 0) {
    shared.own_full.init(1);
    for (int i = 0; i < C::kStages; ++i) {
      shared.full[i].init(1);
      shared.empty[i].init(C::kWarps * kArrivalsOfWarp);
    }
    for (int i = 0; i < C::kScoreStages; ++i) {
      shared.d_s_full[i].init(C::kWarps * kArrivalsOfWarp);
      shared.d_s_empty[i].init(C::kSumWarps * kArrivalsOfWarp);
    }
    for (int i = 0; i < C::kSumStages; ++i) {
      shared.d_q_full[i].init(C::kSumWarps * kArrivalsOfWarp);
      shared.d_q_empty[i].init(1);
    }
    fence_barrier_init();
    shared.task.take(a, mask, atomicAdd(a.ticket, 1));
  }
  __syncthreads();
  const DenseBackwardHopperTask& task = shared.task;  // in shared memory, because registers are scarce
  const int own0 = uniform(task.key_tile) * C::kOwnRows;

  if (warpgroup == C::kWarpgroups) {
    warpgroup_reg_dealloc<C::kCopyRegisters>();
    const int role = warp - C::kWarps;
    int tile = task.last_tile, h = 0;
    if (role == 0 && lane == 0 && task.steps > 0) {  // copies in
      shared.own_full.arrive_expect_tx(sizeof(shared.own));
#pragma unroll
      for (int i = 0; i < C::kOwnRows; i += kBoxRows) {
#pragma unroll
        for (int half = 0; half < C::kHalves; ++half) {
          tma_load(shared.own[half].data + i * C::kHalfD, a.k, C::kHalves * task.kv_head + half, own0 + i, task.row,
                   shared.own_full);
          tma_load(shared.own[C::kHalves + half].data + i * C::kHalfD, a.v, C::kHalves * task.kv_head + half, own0 + i,
                   task.row, shared.own_full);
        }
      }
      const int tiles = (a.T + kN - 1) / kN;
      Ring ring;
      for (int i = 0; i < task.steps; ++i, ring.advance()) {
        const int head = task.head_begin + h, stage = ring.stage();
        const float* values =
            a.row_values + ((static_cast<std::int64_t>(task.row) * a.HQ + head) * tiles + tile) * 2 * kN;
        Barrier& full = shared.full[stage];
        shared.empty[stage].wait(ring.parity() ^ 1);
        full.arrive_expect_tx(sizeof(shared.passing[stage]) + sizeof(shared.values[stage]));
#pragma unroll
        for (int half = 0; half < C::kHalves; ++half) {
          auto& passing = shared.passing[stage];
          tma_load(passing[half].data, a.q, C::kHalves * head + half, tile * kN, task.row, full);
          tma_load(passing[C::kHalves + half].data, a.d_out, C::kHalves * head + half, tile * kN, task.row, full);
        }
        bulk_load(shared.values[stage], values, sizeof(shared.values[stage]), full);
        if (++h == task.heads) h = 0, --tile;
      }
    } else if (role == 1 && lane == 0 && task.steps > 0) {  // adds to d_q, when it is this task's turn
      int* done = task.steps_done(a);
      int seen = 0;
      for (SumRing ring; static_cast<int>(ring.passed) < task.steps; ring.advance()) {
        const int stage = ring.stage(), wanted = task.steps_ahead(mask, tile, h);
        shared.d_q_full[stage].wait(ring.parity());
        if (seen < wanted) {
          seen = wait_for(done - 1, wanted);
          fence_proxy_async();
        }
#pragma unroll
        for (int part = 0; part < C::kD / 32; ++part) {
          const int head = (task.head_begin + h) * (C::kD / 32) + part;
          if (a.accumulate_q || wanted > 0)
            tma_reduce_add(a.d_q, shared.d_q[stage][part], head, tile * kN, task.row);
          else
            tma_store(a.d_q, shared.d_q[stage][part], head, tile * kN, task.row);
        }
        if (ring.passed > 0) {
          tma_store_wait<C::kD / 32>();  // the steps before are
          if constexpr (!C::kLeaveSumsEarly) mbarrier_arrive(shared.d_q_empty[ring.previous().stage()].address());
          announce_in_place(done, static_cast<int>(ring.passed));
        }
        if constexpr (C::kLeaveSumsEarly) {
          tma_store_wait_read();
          mbarrier_arrive(shared.d_q_empty[stage].address());
        }
        if (++h == task.heads) h = 0, --tile;
      }
      tma_store_wait<0>();
      announce_in_place(done, task.steps);
    }
  } else {
    warpgroup_reg_alloc<C::kRegisters>();
    const int steps = uniform(task.steps), heads = uniform(task.heads);
    const int row0 = warp * 16, first_own = own0 + warpgroup * kWarpgroupRows;
    const float scale2 = a.scale * kLog2e;
    float d_k[C::kD / 8][4] = {}, d_v[C::kD / 8][4] = {};
    if constexpr (C::kHalves == 2) {
      if (steps > 0) add_steps_of_halves<C>(shared, a, mask, own0, warpgroup, d_k, d_v);
    } else if (steps > 0) {
      std::uint32_t v[kSlices][4], p[kN / 16][4] = {}, d_s[kN / 16][4] = {};
      float scores[kN / 8][4], d_p[kN / 8][4], d_q[C::kD / 8][4];
      shared.own_full.wait(0);
#pragma unroll
      for (int kk = 0; kk < kSlices; ++kk) load_a(v[kk], shared.own[1], row0, kk, lane);

      const auto start_from = [&](int stage) { start_from_values(scores, d_p, shared.values[stage], lane); };
      // own rows x kN, over D.
      const auto start_scores = [&](int stage) {
        const std::uint64_t q_rows = wgmma_operand(shared.passing[stage][0], 0);
        const std::uint64_t d_out_rows = wgmma_operand(shared.passing[stage][1], 0);
        const std::uint64_t k_rows = wgmma_operand(shared.own[0], warpgroup * kWarpgroupRows);
#pragma unroll
        for (int kk = 0; kk < kSlices; ++kk)
          wgmma<false>(scores, k_rows + kk * kNextAlongRow, q_rows + kk * kNextAlongRow, true);
        wgmma_commit();
#pragma unroll
        for (int kk = 0; kk < kSlices; ++kk) wgmma<false>(d_p, v[kk], d_out_rows + kk * kNextAlongRow, true);
        wgmma_commit();
      };
      // d_v, d_k += own rows x D, over kN.
      const auto start_keys = [&](int stage) {
        const std::uint64_t q_rows = wgmma_operand(shared.passing[stage][0], 0);
        const std::uint64_t d_out_rows = wgmma_operand(shared.passing[stage][1], 0);
#pragma unroll
        for (int m = 0; m < kN / 16; ++m) wgmma<true>(d_v, p[m], d_out_rows + m * kNextTransposed, true);
#pragma unroll
        for (int m = 0; m < kN / 16; ++m) wgmma<true>(d_k, d_s[m], q_rows + m * kNextTransposed, true);
        wgmma_commit();
      };
      // d_q of a step, kN x D, over all own rows.
      const auto start_queries = [&](int step) {
        const ScoreRing at = ScoreRing::at(step);
        shared.d_s_full[at.stage()].wait(at.parity());
        const std::uint64_t d_s_rows = wgmma_operand(shared.d_s[at.stage()], 0),
                            k_rows = wgmma_operand(shared.own[0], 0);
        wgmma_fence();
#pragma unroll
        for (int m = 0; m < C::kOwnRows / 16; ++m)
          wgmma<true>(d_q, d_s_rows + m * kNextTransposed, k_rows + m * kNextTransposed, m > 0);
        wgmma_commit();
      };
      const auto leave_queries = [&](int step) {
        warpgroup_fence_operand(d_q);
        shared.d_s_empty[ScoreRing::at(step).stage()].arrive_warp(lane);
      };
      // Steps of even and odd number are summed for d_q by one warpgroup and the other, over both warpgroups' d_s.
      // (With % 2, ptxas 13.0 finds too few registers and serialises the products: C7511.)
      const auto sums = [&](int step) { return ((step + 1) & 1) == warpgroup; };

      // This warpgroup's rows of d_s, to where both warpgroups' are summed.
      const auto put_d_s = [&](int step) {
        const ScoreRing at = ScoreRing::at(step);
        shared.d_s_empty[at.stage()].wait(at.parity() ^ 1);
#pragma unroll
        for (int m = 0; m < kN / 16; ++m) stmatrix_16x16(shared.d_s[at.stage()], row0, m, d_s[m], lane);
      };
      const auto announce_d_s = [&](int step) { shared.d_s_full[ScoreRing::at(step).stage()].arrive_warp(lane); };
      const auto put_queries = [&](int step) {
        const SumRing at = SumRing::at(step);
        shared.d_q_empty[at.stage()].wait(at.parity() ^ 1);
        put_sum<kN>(shared.d_q[at.stage()], d_q, a.scale, warp, lane);
      };
      const auto announce_queries = [&](int step) { shared.d_q_full[SumRing::at(step).stage()].arrive_warp(lane); };
      // Step i computes scores and d_s, adds step i - 1 to d_k and d_v, and sums d_q of step i - 2 if kSums; else it
      // passes on what this warpgroup summed in the step before. Before step 0 there is nothing to add: p and d_s are
      // 0.
      int tile = task.last_tile, heads_left = heads;
      const auto step = [&]<bool kSums>(int i) {
        const int stage = Ring::at(i).stage(), before = Ring::at(max(i - 1, 0)).stage();
        start_from(stage);
        wgmma_fence();
        start_keys(before);
        start_scores(stage);
        fence_view_async_shared();
        if (i > 0) announce_d_s(i - 1);
        if constexpr (!kSums) {
          if (i > 2) announce_queries(i - 3);
        }
        wgmma_wait<1>();
        warpgroup_fence_operand(scores);
        if (i > 0) shared.empty[before].arrive_warp(lane);
        exponentials(scores, scale2);
        const int t0 = tile * kN;
        if (t0 < mask.query_begin(first_own + kWarpgroupRows - 1) || t0 + kN > mask.query_end(first_own))
          apply_mask(scores, mask, t0, own0, lane);
        if (--heads_left == 0) heads_left = heads, --tile;
        if constexpr (kSums) start_queries(i - 2);
        wgmma_wait<kSums ? 1 : 0>();
        warpgroup_fence_operand(d_p);
#pragma unroll
        for (int n = 0; n < kN / 8; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) d_p[n][e] *= scores[n][e];
        // A wait that ends a basic block: the compiler would move the arithmetic behind that for the products.
        warpgroup_fence_operand(scores), warpgroup_fence_operand(d_p);
        const Ring after = Ring::at(i + 1);
        if (i + 1 < steps) shared.full[after.stage()].wait(after.parity());
        if constexpr (kSums) {
          wgmma_wait<0>();
          leave_queries(i - 2);
        }
#pragma unroll
        for (int m = 0; m < kN / 16; ++m) {
          pack_a(p[m], scores[2 * m], scores[2 * m + 1]);
          pack_a(d_s[m], d_p[2 * m], d_p[2 * m + 1]);
        }
        put_d_s(i);
        if constexpr (kSums) put_queries(i - 2);
      };
      shared.full[0].wait(0);
      for (int i = 0; i < steps; ++i) {
        if (i > 1 && sums(i - 2))
          step.template operator()<true>(i);
        else
          step.template operator()<false>(i);
      }

      // What the last steps have left.
      fence_view_async_shared();
      announce_d_s(steps - 1);
      if (steps > 2 && sums(steps - 3)) announce_queries(steps - 3);
      wgmma_fence();
      start_keys(Ring::at(steps - 1).stage());
      wgmma_wait<0>();
      warpgroup_fence_operand(d_k), warpgroup_fence_operand(d_v);
      shared.empty[Ring::at(steps - 1).stage()].arrive_warp(lane);
#pragma unroll 1
      for (int i = max(steps - 2, 0); i < steps; ++i) {
        if (!sums(i)) continue;
        start_queries(i);
        wgmma_wait<0>();
        warpgroup_fence_operand(d_q);
        put_queries(i);
        fence_view_async_shared();
        announce_queries(i);
      }
    }

    // Chunks of a group's heads add to the same keys in their order.
    int* done = a.keys_done + (static_cast<std::int64_t>(task.row) * a.HK + task.kv_head) * a.key_tiles + task.key_tile;
    if (task.chunk > 0) {
      if (thread == 0) wait_for(done, task.chunk);
      barrier_sync(1, C::kWarps * kWarpSize);
    }
    const bool add = a.accumulate_kv || task.chunk > 0;
#pragma unroll
    for (int d = 0; d < C::kD / 8; ++d) {
      const RowOfFour k_four = row_of_four(d_k[d], lane), v_four = row_of_four(d_v[d], lane);
      const int u = own0 + row0 + k_four.row;
      if (u >= a.U) continue;
      const std::int64_t offset =
          ((static_cast<std::int64_t>(task.row) * a.U + u) * a.HK + task.kv_head) * C::kD + d * 8 + k_four.col;
      put(a.d_k + offset, k_four.values, a.scale, add);
      put(a.d_v + offset, v_four.values, 1, add);
    }
    if (task.chunk + 1 < a.chunks) {
      barrier_sync(1, C::kWarps * kWarpSize);
      if (thread == 0) announce(done, task.chunk + 1);
    }
  }
#endif
}

}  // namespace ssa::cuda
