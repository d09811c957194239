// The backward of dense attention on Hopper: one pass, five products, bit-repeatable. A task owns keys, and their d_k
// and d_v stay in registers; its part of d_q is added in global memory, kv tile after kv tile. README.md in this
// directory explains the schedule.
#pragma once

#include "config.cuh"
#include "kernels/common/ptx/tma.cuh"
#include "mask.cuh"

namespace ssa::cuda {

/// Where a row's value stands: a lane of an accumulator's columns (8 n + 2 (lane % 4) + 0, 1) then finds its values of
/// n = 2 c and 2 c + 1 in four consecutive ones.
__device__ __forceinline__ int row_value_place(int i) {
  return (i & ~15) | (i >> 1 & 3) << 2 | (i >> 3 & 1) << 1 | (i & 1);
}

/// Lays lse and delta out by heads, as BwdHopperArgs::row_values, and zeroes the counters.
template <class C>
__global__ void __launch_bounds__(256) row_values_kernel(float* row_values, const float* lse, const float* delta, int T,
                                                         int HQ, float scale, int* counters, int count) {
  constexpr int kRows = C::kBlockM, kHeads = 32;
  __shared__ float tile[2][kHeads][kRows + 1];
  const int t0 = static_cast<int>(blockIdx.x) * kRows, head0 = static_cast<int>(blockIdx.y) * kHeads;
  const std::int64_t row = blockIdx.z;
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < kRows * kHeads; i += 256) {
    const int place = row_value_place(i / kHeads), t = t0 + i / kHeads, head = head0 + i % kHeads;
    const bool inside = t < T && head < HQ;
    const std::int64_t from = inside ? (row * T + t) * HQ + head : 0;
    const float l = inside ? lse[from] : -kInfinity;
    tile[0][i % kHeads][place] = l == -kInfinity ? -kInfinity : -l * kLog2e;
    tile[1][i % kHeads][place] = inside ? -delta[from] * scale : 0.0f;
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
/// Copies K to `to` with the columns of each 32 in another order: column 8 n + 2 c + e becomes 8 c + 2 n + e. A
/// product's accumulators then hold 8 consecutive columns of d_q in a lane, and go to shared memory in stores of 16
/// bytes. A thread moves 64 bytes of a row.
template <class TileType>
__device__ __forceinline__ void permute_columns(TileType& to, const TileType& from, int row, int part) {
  uint4 chunk[4];
#pragma unroll
  for (int n = 0; n < 4; ++n)
    chunk[n] = *reinterpret_cast<const uint4*>(reinterpret_cast<const unsigned char*>(from.data) +
                                               TileType::offset(row, part * 4 + n));
  const auto word = [](const uint4& x, int c) { return c == 0 ? x.x : c == 1 ? x.y : c == 2 ? x.z : x.w; };
#pragma unroll
  for (int n = 0; n < 4; ++n)
    *reinterpret_cast<uint4*>(reinterpret_cast<unsigned char*>(to.data) + TileType::offset(row, part * 4 + n)) =
        make_uint4(word(chunk[0], n), word(chunk[1], n), word(chunk[2], n), word(chunk[3], n));
}

/// Scores to probabilities: 2^(scores * scale2 + values), where `values` are the rows' -lse * log2(e).
template <int kTiles>
__device__ __forceinline__ void exponentials(float (&scores)[kTiles][4], const float* values, float scale2, int lane) {
  const float4* lse = reinterpret_cast<const float4*>(values) + (lane & 3);
#pragma unroll
  for (int c = 0; c < kTiles / 2; ++c) {
    const float4 l = lse[c * 4];
#pragma unroll
    for (int e = 0; e < 4; e += 2) {
      scores[2 * c][e] = exp2_fast(scores[2 * c][e] * scale2 + l.x);
      scores[2 * c][e + 1] = exp2_fast(scores[2 * c][e + 1] * scale2 + l.y);
      scores[2 * c + 1][e] = exp2_fast(scores[2 * c + 1][e] * scale2 + l.z);
      scores[2 * c + 1][e + 1] = exp2_fast(scores[2 * c + 1][e + 1] * scale2 + l.w);
    }
  }
}

/// d_p to d_s, times the scale: p * (d_p * scale + values), where `values` are the rows' -delta * scale.
template <int kTiles>
__device__ __forceinline__ void score_gradients(float (&d_p)[kTiles][4], const float (&p)[kTiles][4],
                                                const float* values, float scale, int lane) {
  const float4* delta = reinterpret_cast<const float4*>(values) + (lane & 3);
#pragma unroll
  for (int c = 0; c < kTiles / 2; ++c) {
    const float4 d = delta[c * 4];
#pragma unroll
    for (int e = 0; e < 4; e += 2) {
      d_p[2 * c][e] = p[2 * c][e] * (d_p[2 * c][e] * scale + d.x);
      d_p[2 * c][e + 1] = p[2 * c][e + 1] * (d_p[2 * c][e + 1] * scale + d.y);
      d_p[2 * c + 1][e] = p[2 * c + 1][e] * (d_p[2 * c + 1][e] * scale + d.z);
      d_p[2 * c + 1][e + 1] = p[2 * c + 1][e + 1] * (d_p[2 * c + 1][e + 1] * scale + d.w);
    }
  }
}

/// Makes 0 what queries from t0 on do not see of this thread's keys; the CTA's keys start at u0.
template <class Mask, int kTiles>
__device__ __forceinline__ void apply_mask(float (&p)[kTiles][4], const Mask& mask, int t0, int u0, int lane) {
  const int u = u0 + fresh_thread() / kWarpSize * 16 + (lane >> 2);
#pragma unroll
  for (int n = 0; n < kTiles; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      if (!mask.is_visible(t0 + n * 8 + (lane & 3) * 2 + (e & 1), u + (e & 2) * 4)) p[n][e] = 0;
}
/// Makes 0 what queries after the document pieces of this thread's keys do not see; query_end: of the CTA's keys.
template <int kTiles>
__device__ __forceinline__ void apply_query_end(float (&p)[kTiles][4], const int* query_end, int t0, int lane) {
  const int* end = query_end + fresh_thread() / kWarpSize * 16 + (lane >> 2);
  const int queries[2] = {end[0] - t0 - (lane & 3) * 2, end[8] - t0 - (lane & 3) * 2};
#pragma unroll
  for (int n = 0; n < kTiles; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      if (n * 8 + (e & 1) >= queries[e / 2]) p[n][e] = 0;
}

/// A warpgroup's part of d_q, 64 x 64 with columns in the order of permute_columns(), to two boxes of 32 columns, whose
/// chunks of 16 bytes are swizzled by the row.
__device__ __forceinline__ void stage_d_q(float (*boxes)[64 * 32], const float (&sum)[8][4], int warp, int lane) {
  const int g = lane >> 2, c = lane & 3;
  unsigned char* row = reinterpret_cast<unsigned char*>(boxes) + (warp % 4 * 16 + g) * 128;
#pragma unroll
  for (int n = 0; n < 8; n += 2) {
    unsigned char* to = row + n / 4 * sizeof(*boxes) + ((2 * c + n / 2 % 2) ^ g) * 16;
    *reinterpret_cast<float4*>(to) = make_float4(sum[n][0], sum[n][1], sum[n + 1][0], sum[n + 1][1]);
    *reinterpret_cast<float4*>(to + 8 * 128) = make_float4(sum[n][2], sum[n][3], sum[n + 1][2], sum[n + 1][3]);
  }
}

/// All steps of shared.task, of which there is at least one, added to d_k and d_v, this warpgroup's 64 keys x D. Their
/// parts of d_q are handed to the warps that add them.
template <class C, class Mask>
__device__ __forceinline__ void bwd_steps(typename C::Shared& shared, const BwdHopperArgs& a, const Mask& masks,
                                          int warpgroup, float (&d_k)[C::kD / 8][4], float (&d_v)[C::kD / 8][4]) {
  using Ring = PipelineState<C::kStages>;
  using DsRing = PipelineState<C::kDsStages>;
  using DqRing = PipelineState<C::kDqStages>;
  constexpr int kM = C::kBlockM, kSlices = C::kHalfD / 16;
  const auto lane = [] { return fresh_thread() % kWarpSize; };  // not kept in a register
  constexpr bool kDocuments = kIsInDocuments<Mask>;
  const int steps = uniform(shared.task.steps);
  if constexpr (kDocuments) {  // each warp for its own keys
    const int own = static_cast<int>(threadIdx.x) / kWarpSize * 16 + lane() % 16;
    shared.query_end[own] = of_sequence(masks, shared.task.batch).query_end(shared.task.kv_tile * C::kBlockN + own);
    __syncwarp();
  }
  float scores[kM / 8][4], d_p[kM / 8][4], d_q[8][4];
  std::uint32_t p[kM / 16][4], d_s[kM / 16][4];

  shared.kv_full.wait(0);
  const int in_warpgroup = static_cast<int>(threadIdx.x) % kWarpgroupThreads, own_row = warpgroup * kWarpgroupRows;
#pragma unroll
  for (int half = 0; half < C::kHalves; ++half)
    permute_columns(shared.k_columns[half], shared.k[half], own_row + in_warpgroup % kWarpgroupRows,
                    in_warpgroup / kWarpgroupRows);

  // Keys x queries, over D.
  const auto start_scores = [&](int stage) {
    discard(scores);
    wgmma_fence();
#pragma unroll
    for (int half = 0; half < C::kHalves; ++half) {
      const std::uint64_t q_rows = wgmma_operand(shared.q[stage][half], 0);
      const std::uint64_t k_rows = wgmma_operand(shared.k[half], own_row);
#pragma unroll
      for (int kk = 0; kk < kSlices; ++kk)
        wgmma<false>(scores, k_rows + kk * kNextAlongRow, q_rows + kk * kNextAlongRow, half + kk > 0);
    }
    wgmma_commit();
  };
  const auto start_d_p = [&](int stage) {
    discard(d_p);
    wgmma_fence();
#pragma unroll
    for (int half = 0; half < C::kHalves; ++half) {
      const std::uint64_t d_out_rows = wgmma_operand(shared.d_out[stage][half], 0);
      const std::uint64_t v_rows = wgmma_operand(shared.v[half], own_row);
#pragma unroll
      for (int kk = 0; kk < kSlices; ++kk)
        wgmma<false>(d_p, v_rows + kk * kNextAlongRow, d_out_rows + kk * kNextAlongRow, half + kk > 0);
    }
    wgmma_commit();
  };
  // Keys x D, over queries.
  const auto start_d_v = [&](int stage) {
    wgmma_fence();
    const std::uint64_t d_out_columns = wgmma_operand<C::kD>(shared.d_out[stage][0], 0);
#pragma unroll
    for (int m = 0; m < kM / 16; ++m) wgmma<true>(d_v, p[m], d_out_columns + m * kNextTransposed, true);
    wgmma_commit();
  };
  const auto start_d_k = [&](int stage) {
    wgmma_fence();
    const std::uint64_t q_columns = wgmma_operand<C::kD>(shared.q[stage][0], 0);
#pragma unroll
    for (int m = 0; m < kM / 16; ++m) wgmma<true>(d_k, d_s[m], q_columns + m * kNextTransposed, true);
    wgmma_commit();
  };
  // This warpgroup's part of a step's d_q over all keys: 64 x 64, its queries or its half of D.
  const auto start_d_q = [&](int step) {
    const DsRing at = DsRing::at(step);
    shared.d_s_full[at.stage()].wait(at.parity());
    discard(d_q);
    wgmma_fence();
    const std::uint64_t d_s_columns = wgmma_operand(shared.d_s[at.stage()][C::kHalves == 1 ? warpgroup : 0], 0);
    const std::uint64_t k_columns = wgmma_operand(shared.k_columns[C::kHalves == 1 ? 0 : warpgroup], 0);
#pragma unroll
    for (int n = 0; n < C::kBlockN / 16; ++n)
      wgmma<true>(d_q, d_s_columns + n * kNextTransposed, k_columns + n * kNextTransposed, n > 0);
    wgmma_commit();
  };
  // After the wait for its products.
  const auto pass_on_d_q = [&](int step) {
    warpgroup_fence_operand(d_q);
    shared.d_s_empty[DsRing::at(step).stage()].arrive_warp(lane());
    const DqRing at = DqRing::at(step);
    shared.d_q_empty[at.stage()][warpgroup].wait(at.parity() ^ 1);
    const int thread = fresh_thread();
    stage_d_q(shared.d_q[at.stage()][warpgroup], d_q, thread / kWarpSize, thread % kWarpSize);
    fence_view_async_shared();
    shared.d_q_full[at.stage()][warpgroup].arrive_warp(lane());
  };
  // This warpgroup's keys of d_s, to where both warpgroups' are summed.
  const auto pass_on_d_s = [&](int step) {
    const DsRing at = DsRing::at(step);
    const int thread = fresh_thread();
#pragma unroll
    for (int m = 0; m < kM / 16; ++m)
      stmatrix_16x16(shared.d_s[at.stage()][m / 4], thread / kWarpSize * 16, m % 4, d_s[m], thread % kWarpSize);
    fence_view_async_shared();
    shared.d_s_full[at.stage()].arrive_warp(lane());
  };

  // A step begins with its scores in registers, and ends with the scores of the next one. It sums d_q of the step
  // before, whose d_s the other warpgroup has mostly passed on by then.
  const auto step = [&]<bool kFirst>(int i) {
    const int stage = Ring::at(i).stage();
    start_d_p(stage);
    exponentials(scores, shared.values[stage][0], a.scale_log2, lane());
    const int masked = uniform(shared.masked[stage]);
    if (masked >> warpgroup & 1)
      apply_mask(scores, base_of(masks), shared.t_first[stage], shared.task.kv_tile * C::kBlockN, lane());
    if constexpr (kDocuments)
      if (masked >> (C::kWarpgroups + warpgroup) & 1)
        apply_query_end(scores, shared.query_end, shared.t_first[stage], lane());
    // A wait that ends a basic block: the compiler would move the exponentials behind the wait for the products.
    warpgroup_fence_operand(scores);
    const DsRing at = DsRing::at(i);
    shared.d_s_empty[at.stage()].wait(at.parity() ^ 1);
    wgmma_wait<0>();
    warpgroup_fence_operand(d_p);
    score_gradients(d_p, scores, shared.values[stage][1], a.scale, lane());
#pragma unroll
    for (int m = 0; m < kM / 16; ++m) {
      pack_a(p[m], scores[2 * m], scores[2 * m + 1]);
      pack_a(d_s[m], d_p[2 * m], d_p[2 * m + 1]);
    }
    // After the last step, scores of whatever is there, which nobody uses.
    const Ring next = Ring::at(i + 1);
    const auto start_next_scores = [&] {
      if (i + 1 < steps) shared.q_full[next.stage()].wait(next.parity());
      start_scores(next.stage());
    };
    start_d_v(stage);
    if constexpr (C::kDqBeforeDk) {
      pass_on_d_s(i);
      if constexpr (!kFirst) start_d_q(i - 1);
      wgmma_wait<0>();
      start_d_k(stage);
      start_next_scores();
      if constexpr (!kFirst) pass_on_d_q(i - 1);
      wgmma_wait<1>();
      shared.q_empty[stage].arrive_warp(lane());
    } else {
      start_d_k(stage);
      pass_on_d_s(i);
      wgmma_wait<0>();
      shared.q_empty[stage].arrive_warp(lane());
      if constexpr (!kFirst) start_d_q(i - 1);
      start_next_scores();
      if constexpr (!kFirst) {
        wgmma_wait<1>();
        pass_on_d_q(i - 1);
      }
    }
    wgmma_wait<0>();
    warpgroup_fence_operand(scores), warpgroup_fence_operand(d_k), warpgroup_fence_operand(d_v);
  };
  shared.q_full[0].wait(0);
  start_scores(0);
  wgmma_wait<0>();
  warpgroup_fence_operand(scores);
  step.template operator()<true>(0);
  for (int i = 1; i < steps; ++i) step.template operator()<false>(i);
  start_d_q(steps - 1);
  wgmma_wait<0>();
  pass_on_d_q(steps - 1);
}

/// Four values: stored, or added to what is there.
__device__ __forceinline__ void store_or_add(float* to, const float4& values, bool add) {
  auto* target = reinterpret_cast<float4*>(to);
  if (add)
    reduce_add(target, values);
  else
    *target = values;
}
#endif

/// One CTA per task.
template <class C, class Mask>
__global__ void __launch_bounds__(C::kThreads, 1)
    bwd_hopper_kernel(const __grid_constant__ BwdHopperArgs a, const Mask masks) {
#if SSA_WGMMA_CODE
  extern __shared__ __align__(1024) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<typename C::Shared*>(shared_bytes);
  using Ring = PipelineState<C::kStages>;
  using DqRing = PipelineState<C::kDqStages>;
  constexpr int kM = C::kBlockM;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarpSize, lane = thread % kWarpSize;
  const int warpgroup = uniform(thread / kWarpgroupThreads);

  if (thread == 0) {
    shared.kv_full.init(1);
    for (int i = 0; i < C::kStages; ++i) {
      shared.q_full[i].init(1);
      shared.q_empty[i].init(C::kWarps * kArrivalsOfWarp);
    }
    for (int i = 0; i < C::kDsStages; ++i) {
      shared.d_s_full[i].init(C::kWarps * kArrivalsOfWarp);
      shared.d_s_empty[i].init(C::kWarps * kArrivalsOfWarp);
    }
    for (int i = 0; i < C::kDqStages; ++i)
      for (int part = 0; part < C::kWarpgroups; ++part) {
        shared.d_q_full[i][part].init(4 * kArrivalsOfWarp);
        shared.d_q_empty[i][part].init(1);
      }
    fence_barrier_init();
    shared.task.take(a, masks, atomicAdd(a.ticket, 1));
  }
  __syncthreads();
  const BwdHopperTask<C>& task = shared.task;  // in shared memory, because registers are scarce

  if (warpgroup == C::kWarpgroups) {
    warpgroup_reg_dealloc<C::kProducerRegisters>();
    const int role = warp - C::kWarps, u0 = task.kv_tile * C::kBlockN;
    int q_tile = task.q_tile_start, h = 0;
    if (role == 0 && lane == 0 && task.steps > 0) {  // loads
      shared.kv_full.arrive_expect_tx(2 * sizeof(shared.v));
#pragma unroll
      for (int half = 0; half < C::kHalves; ++half)
#pragma unroll
        for (int i = 0; i < C::kBlockN; i += kBoxRows) {
          const int head = C::kHalves * task.kv_head + half;
          tma_load(shared.k[half].data + i * C::kHalfD, a.k, head, u0 + i, task.batch, shared.kv_full);
          tma_load(shared.v[half].data + i * C::kHalfD, a.v, head, u0 + i, task.batch, shared.kv_full);
        }
      const int q_tiles = (a.T + kM - 1) / kM;
      Ring ring;
      for (int i = 0; i < task.steps; ++i, ring.advance()) {
        const int head = task.head_begin + h, stage = ring.stage();
        const float* values =
            a.row_values + ((static_cast<std::int64_t>(task.batch) * a.HQ + head) * q_tiles + q_tile) * 2 * kM;
        Barrier& full = shared.q_full[stage];
        shared.q_empty[stage].wait(ring.parity() ^ 1);
        const int t0 = q_tile * kM;
        int masked = 0;
#pragma unroll
        for (int i = 0; i < C::kWarpgroups; ++i) {
          const int u_first = u0 + i * kWarpgroupRows;
          const auto& base = base_of(masks);
          if (t0 < base.query_begin(u_first + kWarpgroupRows - 1) || t0 + kM > base.query_end(u_first))
            masked |= 1 << i;
          if constexpr (kIsInDocuments<Mask>)
            if (t0 + kM > task.query_end[i]) masked |= 1 << (C::kWarpgroups + i);
        }
        shared.t_first[stage] = t0, shared.masked[stage] = masked;
        full.arrive_expect_tx(sizeof(shared.q[stage]) + sizeof(shared.d_out[stage]) + sizeof(shared.values[stage]));
#pragma unroll
        for (int half = 0; half < C::kHalves; ++half)
#pragma unroll
          for (int m = 0; m < kM; m += kBoxRows)
            tma_load(shared.q[stage][half].data + m * C::kHalfD, a.q, C::kHalves * head + half, q_tile * kM + m,
                     task.batch, full);
        bulk_load(shared.values[stage], values, sizeof(shared.values[stage]), full);
#pragma unroll
        for (int half = 0; half < C::kHalves; ++half)
#pragma unroll
          for (int m = 0; m < kM; m += kBoxRows)
            tma_load(shared.d_out[stage][half].data + m * C::kHalfD, a.d_out, C::kHalves * head + half, q_tile * kM + m,
                     task.batch, full);
        if (++h == task.heads) h = 0, q_tile = task.template next_q_tile<Mask>(q_tile);
      }
    } else if (role > 0 && role <= C::kWarpgroups && lane == 0 && task.steps > 0) {
      // Adds a warpgroup's part of d_q, when it is this task's turn.
      const int part = role - 1;
      int* done = task.steps_done(a, part);
      int seen = 0;
      DqRing ring;
      for (int i = 0; i < task.steps; ++i, ring.advance()) {
        const int stage = ring.stage(), wanted = task.steps_before(a, base_of(masks), q_tile, h);
        shared.d_q_full[stage][part].wait(ring.parity());
        if (seen < wanted) {
          seen = wait_for(done + BwdHopperTask<C>::template kCounterBefore<Mask>, wanted);
          fence_proxy_async();
        }
#pragma unroll
        for (int box = 0; box < 2; ++box) {
          const int head = (task.head_begin + h) * (C::kD / 32) + (C::kHalves == 1 ? 0 : 2 * part) + box;
          const int t = q_tile * kM + (C::kHalves == 1 ? 64 * part : 0);
          if (a.accumulate_q || wanted > 0)
            tma_reduce_add(a.d_q, shared.d_q[stage][part][box], head, t, task.batch);
          else
            tma_store(a.d_q, shared.d_q[stage][part][box], head, t, task.batch);
        }
        tma_store_wait_read();
        mbarrier_arrive(shared.d_q_empty[stage][part].address());
        tma_store_wait<0>();
        announce(done, i + 1);
        if (++h == task.heads) h = 0, q_tile = task.template next_q_tile<Mask>(q_tile);
      }
    }
  } else {
    warpgroup_reg_alloc<C::kRegisters>();
    float d_k[C::kD / 8][4] = {}, d_v[C::kD / 8][4] = {};
    if (task.steps > 0) bwd_steps<C>(shared, a, masks, warpgroup, d_k, d_v);

    // Chunks of a group's heads add to the same keys in their order.
    const int id = fresh_thread();
    int* done = a.kv_done + (static_cast<std::int64_t>(task.batch) * a.HK + task.kv_head) * a.kv_tiles + task.kv_tile;
    if (task.chunk > 0) {
      if (id == 0) wait_for(done, task.chunk);
      barrier_sync(static_cast<int>(NamedBarrier::kConsumers), C::kWarps * kWarpSize);
    }
    const bool add = a.accumulate_kv || task.chunk > 0;
#pragma unroll
    for (int d = 0; d < C::kD / 8; ++d) {
      const RowOfFour k_four = row_of_four(d_k[d], id % kWarpSize), v_four = row_of_four(d_v[d], id % kWarpSize);
      const int u = task.kv_tile * C::kBlockN + id / kWarpSize * 16 + k_four.row;
      if (u >= a.U) continue;
      const std::int64_t offset =
          ((static_cast<std::int64_t>(task.batch) * a.U + u) * a.HK + task.kv_head) * C::kD + d * 8 + k_four.col;
      store_or_add(a.d_k + offset, k_four.values, add);
      store_or_add(a.d_v + offset, v_four.values, add);
    }
    if (task.chunk + 1 < a.chunks) {
      barrier_sync(static_cast<int>(NamedBarrier::kConsumers), C::kWarps * kWarpSize);
      if (id == 0) announce(done, task.chunk + 1);
    }
  }
#endif
}

}  // namespace ssa::cuda
