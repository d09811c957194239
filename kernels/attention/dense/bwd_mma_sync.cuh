// The backward of dense attention in mma.sync: one pass, bit-repeatable. README.md in this directory explains the
// schedule.
#pragma once

#include "config.cuh"

namespace ssa::cuda {

/// Starts the copies of a step: q, d_out, lse and delta of a q tile.
template <class C>
__device__ __forceinline__ void load_queries(typename C::Shared& shared, int stage, const DenseBackwardArgs& a,
                                             const BwdMmaSyncTask& task, BwdMmaSyncTask::Step step, int thread) {
  const int t0 = task.q_tile(step) * C::kBlockM;
  const std::int64_t position = task.query_position(a, t0, task.head(step)), stride = a.HQ * C::kD;
  load_rows<C::kThreads>(shared.q[stage], a.q + position * C::kD, stride, a.T - t0, thread);
  load_rows<C::kThreads>(shared.d_out[stage], a.d_out + position * C::kD, stride, a.T - t0, thread);
  // lse and delta of a query beyond T become 0: with q = d_out = 0 it adds nothing.
  for (int i = thread; i < 2 * C::kBlockM; i += C::kThreads) {
    const int query = i % C::kBlockM;
    const bool inside = t0 + query < a.T, is_lse = i < C::kBlockM;
    cp_async_4(shared_address(is_lse ? &shared.lse[stage][query] : &shared.delta[stage][query]),
               (is_lse ? a.lse : a.delta) + position + (inside ? static_cast<std::int64_t>(query) * a.HQ : 0), inside);
  }
}

/// Adds 16 rows from token t0 on, of kTiles x 8 columns from col0 on, to d_q, or stores them.
template <int kD, int kTiles>
__device__ __forceinline__ void add_query_rows(const DenseBackwardArgs& a, const BwdMmaSyncTask& task, int head, int t0,
                                               int col0, float (&d_q)[kTiles][4], bool add, int lane) {
  const RowOfFour place = row_of_four(d_q[0], lane);  // its row and column are the same in every tile
  float4 values[kTiles];
#pragma unroll
  for (int d = 0; d < kTiles; ++d) {
    const float4 v = row_of_four(d_q[d], lane).values;
    values[d] = make_float4(v.x * a.scale, v.y * a.scale, v.z * a.scale, v.w * a.scale);
  }
  const int t = t0 + place.row;
  if (t >= a.T) return;
  auto* to = reinterpret_cast<float4*>(a.d_q + task.query_position(a, t, head) * kD + col0 + place.col);
  if (add) {
#pragma unroll
    for (int d = 0; d < kTiles; ++d) reduce_add(to + d * 2, values[d]);
  } else {
#pragma unroll
    for (int d = 0; d < kTiles; ++d) to[d * 2] = values[d];
  }
}

/// The end of a task, called by every thread of the CTA: calls write(add) when it is the task's turn to write its part
/// of d_k and d_v. Chunks of a group's heads take turns in order.
template <class Write>
__device__ __forceinline__ void end_task(const DenseBackwardArgs& a, const BwdMmaSyncTask& task, Write&& write) {
  int* kv_done = a.kv_done + static_cast<std::int64_t>(task.row_head) * a.kv_tiles + task.kv_tile;
  __syncthreads();
  if (threadIdx.x == 0) {
    announce(task.steps_done(a), task.steps());
    if (task.chunk > 0) wait_for(kv_done, task.chunk);
  }
  __syncthreads();
  write(a.accumulate_kv || task.chunk > 0);
  if (task.chunk + 1 < a.chunks) {
    __syncthreads();
    if (threadIdx.x == 0) announce(kv_done, task.chunk + 1);
  }
}

/// Warp w's 16 keys.
template <int kD>
__device__ __forceinline__ void write_keys(const DenseBackwardArgs& a, const BwdMmaSyncTask& task,
                                           float (&d_k)[kD / 8][4], float (&d_v)[kD / 8][4], bool add, int warp,
                                           int lane) {
#pragma unroll
  for (int d = 0; d < kD / 8; ++d) {
#pragma unroll
    for (int e = 0; e < 4; ++e) d_k[d][e] *= a.scale;
    const RowOfFour k_four = row_of_four(d_k[d], lane), v_four = row_of_four(d_v[d], lane);
    const int u = task.u0 + warp * 16 + k_four.row;
    if (u >= a.U) continue;
    const std::int64_t offset = task.key_position(a, u) * kD + d * 8 + k_four.col;
    if (add) {
      reduce_add(reinterpret_cast<float4*>(a.d_k + offset), k_four.values);
      reduce_add(reinterpret_cast<float4*>(a.d_v + offset), v_four.values);
    } else {
      *reinterpret_cast<float4*>(a.d_k + offset) = k_four.values;
      *reinterpret_cast<float4*>(a.d_v + offset) = v_four.values;
    }
  }
}

/// One CTA per task.
template <class C, class Mask>
__global__ void __launch_bounds__(C::kThreads, 1) bwd_mma_sync_kernel(const DenseBackwardArgs a, const Mask masks) {
  extern __shared__ __align__(1024) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<typename C::Shared*>(shared_bytes);
  constexpr int kD = C::kD, kSlices = kD / 16, kQ = C::kQueriesAtOnce;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarpSize, lane = thread % kWarpSize;
  BwdMmaSyncTask& task = shared.task;
  task.take<C>(a, masks);
  const auto& mask = of_sequence(masks, task.row);
  const int u0 = task.u0, steps = task.steps();

  const std::int64_t key_offset = task.key_position(a, u0) * C::kD, key_stride = a.HK * C::kD;
  load_rows<C::kThreads>(shared.k, a.k + key_offset, key_stride, a.U - u0, thread);
  load_rows<C::kThreads>(shared.v, a.v + key_offset, key_stride, a.U - u0, thread);
  BwdMmaSyncTask::Step now;
  if (steps > 0) load_queries<C>(shared, 0, a, task, now, thread);
  cp_async_commit_group();
  cp_async_wait_group<0>();
  __syncthreads();

  std::uint32_t k_fragment[C::kKeysInRegisters ? kSlices : 1][4], v_fragment[C::kKeysInRegisters ? kSlices : 1][4];
  if constexpr (C::kKeysInRegisters) {
#pragma unroll
    for (int kk = 0; kk < kSlices; ++kk) {
      load_a(k_fragment[kk], shared.k, warp * 16, kk, lane);
      load_a(v_fragment[kk], shared.v, warp * 16, kk, lane);
    }
  }

  float d_k[kD / 8][4] = {}, d_v[kD / 8][4] = {};
  const float scale2 = a.scale * kLog2e;

  int stage = 0;
  int seen = 0;  // of the next kv tile's steps
  for (int step = 0; step < steps; ++step, stage ^= 1, now = task.after(now)) {
    cp_async_wait_group<0>();
    __syncthreads();  // this stage has arrived; the other one, d_scores and the additions to d_q are free
    if (step + 1 < steps) load_queries<C>(shared, stage ^ 1, a, task, task.after(now), thread);
    cp_async_commit_group();

    const int head = task.head(now), q_tile = task.q_tile(now), t0 = q_tile * C::kBlockM,
              t_last = min(a.T, t0 + C::kBlockM) - 1;
    const bool masked = u0 + C::kBlockN > mask.key_end(t0) || u0 < mask.key_begin(t_last);

#pragma unroll 1
    for (int q0 = 0; q0 < C::kBlockM; q0 += kQ) {
      // Transposed scores and d_probability: keys are the rows, so that they are the A operand of d_v and d_k as they
      // are.
      float p[kQ / 8][4] = {}, dp[kQ / 8][4] = {};
#pragma unroll
      for (int kk = 0; kk < kSlices; ++kk) {
        if constexpr (!C::kKeysInRegisters) {
          load_a(k_fragment[0], shared.k, warp * 16, kk, lane);
          load_a(v_fragment[0], shared.v, warp * 16, kk, lane);
        }
        const auto& k_part = k_fragment[C::kKeysInRegisters ? kk : 0];
        const auto& v_part = v_fragment[C::kKeysInRegisters ? kk : 0];
#pragma unroll
        for (int n = 0; n < kQ / 16; ++n) {
          std::uint32_t b[4];
          load_b(b, shared.q[stage], q0 + n * 16, kk, lane);
          mma(p[2 * n], k_part, b[0], b[1]);
          mma(p[2 * n + 1], k_part, b[2], b[3]);
          load_b(b, shared.d_out[stage], q0 + n * 16, kk, lane);
          mma(dp[2 * n], v_part, b[0], b[1]);
          mma(dp[2 * n + 1], v_part, b[2], b[3]);
        }
      }
#pragma unroll
      for (int n = 0; n < kQ / 8; ++n) {
        const int i = q0 + n * 8 + (lane & 3) * 2;
        const float2 lse = *reinterpret_cast<const float2*>(&shared.lse[stage][i]);
        const float2 delta = *reinterpret_cast<const float2*>(&shared.delta[stage][i]);
        const float lse2[2] = {lse.x * kLog2e, lse.y * kLog2e};
#pragma unroll
        for (int e = 0; e < 4; ++e) p[n][e] = exp2_fast(p[n][e] * scale2 - lse2[e & 1]);
        if (masked) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int t = t0 + i + (e & 1), u = u0 + warp * 16 + (lane >> 2) + (e & 2) * 4;
            if (!queries_of(mask, u).contains(t)) p[n][e] = 0;  // also where lse is -infinity
          }
        }
#pragma unroll
        for (int e = 0; e < 4; ++e) dp[n][e] = p[n][e] * (dp[n][e] - ((e & 1) ? delta.y : delta.x));
      }
#pragma unroll
      for (int m = 0; m < kQ / 16; ++m) {
        std::uint32_t p_part[4], d_s[4];
        pack_a(p_part, p[2 * m], p[2 * m + 1]);
        pack_a(d_s, dp[2 * m], dp[2 * m + 1]);
        const int key = warp * 16 + (lane >> 2), column_chunk = (q0 + m * 16) / 8;
        unsigned char* d_scores = reinterpret_cast<unsigned char*>(shared.d_scores.data) + (lane & 3) * 4;
        *reinterpret_cast<std::uint32_t*>(d_scores + shared.d_scores.offset(key, column_chunk)) = d_s[0];
        *reinterpret_cast<std::uint32_t*>(d_scores + shared.d_scores.offset(key + 8, column_chunk)) = d_s[1];
        *reinterpret_cast<std::uint32_t*>(d_scores + shared.d_scores.offset(key, column_chunk + 1)) = d_s[2];
        *reinterpret_cast<std::uint32_t*>(d_scores + shared.d_scores.offset(key + 8, column_chunk + 1)) = d_s[3];
#pragma unroll
        for (int d = 0; d < kSlices; ++d) {
          std::uint32_t b[4];
          load_b_transposed(b, shared.d_out[stage], q0 + m * 16, d * 16, lane);
          mma(d_v[2 * d], p_part, b[0], b[1]);
          mma(d_v[2 * d + 1], p_part, b[2], b[3]);
          load_b_transposed(b, shared.q[stage], q0 + m * 16, d * 16, lane);
          mma(d_k[2 * d], d_s, b[0], b[1]);
          mma(d_k[2 * d + 1], d_s, b[2], b[3]);
        }
      }
    }

    const int ahead = task.steps_ahead(now);
    if (thread == 0) {
      announce(task.steps_done(a), step);
      if (seen < ahead) seen = wait_for(task.steps_done(a) + 1, ahead);
    }
    __syncthreads();  // d_scores is complete, and it is this CTA's turn

    float d_q[C::kWarpRows / 16][C::kWarpCols / 8][4] = {};
    const int warp_row = warp % C::kRowWarps * C::kWarpRows, warp_col = warp / C::kRowWarps * C::kWarpCols;
#pragma unroll
    for (int kk = 0; kk < C::kBlockN / 16; ++kk) {
      std::uint32_t d_s[C::kWarpRows / 16][4];
#pragma unroll
      for (int i = 0; i < C::kWarpRows / 16; ++i)
        load_a_transposed(d_s[i], shared.d_scores, kk * 16, warp_row + i * 16, lane);
#pragma unroll
      for (int d = 0; d < C::kWarpCols / 16; ++d) {
        std::uint32_t b[4];
        load_b_transposed(b, shared.k, kk * 16, warp_col + d * 16, lane);
#pragma unroll
        for (int i = 0; i < C::kWarpRows / 16; ++i) {
          mma(d_q[i][2 * d], d_s[i], b[0], b[1]);
          mma(d_q[i][2 * d + 1], d_s[i], b[2], b[3]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < C::kWarpRows / 16; ++i)
      add_query_rows<kD>(a, task, head, t0 + warp_row + i * 16, warp_col, d_q[i], a.accumulate_q || ahead > 0, lane);
  }
  end_task(a, task, [&](bool add) { write_keys<kD>(a, task, d_k, d_v, add, warp, lane); });
}

}  // namespace ssa::cuda
