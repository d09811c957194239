// Backward of dense attention, one pass, bit-repeatable. README.md in this folder explains the schedule.
#pragma once

#include "kernels/causal_attention/config.cuh"

namespace ssa::cuda {

/// One block per task: (chunk of a group's heads, row and key/value head, key tile). Tasks are handed out by a ticket,
/// so that whatever a task waits for was handed out before it.
template <class C, class Visibility>
__global__ void __launch_bounds__(C::kThreads, 1)
    dense_backward_kernel(const DenseBackwardArgs a, const Visibility visible) {
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<typename C::Shared*>(shared_bytes);
  constexpr int kD = C::kD, kSlices = kD / 16, kQ = C::kQueriesAtOnce;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarpSize, lane = thread % kWarpSize;

  if (thread == 0) shared.ticket = atomicAdd(a.ticket, 1);
  __syncthreads();
  // Key tiles come last to first: a query tile then receives its own keys' part of d_q first, and a task finds that the
  // task before it, which started earlier and has fewer query tiles, is ahead of it.
  const int key_tile = a.key_tiles - 1 - shared.ticket % a.key_tiles;
  const int row_head = shared.ticket / a.key_tiles % (a.B * a.HK);
  const int chunk = shared.ticket / a.key_tiles / (a.B * a.HK);
  const std::int64_t row = row_head / a.HK;
  const int kv_head = row_head % a.HK, G = a.HQ / a.HK;
  const int head_begin = chunk * a.heads_per_chunk, head_end = min(G, head_begin + a.heads_per_chunk);

  const int u0 = key_tile * C::kKeys, u_last = min(a.U, u0 + C::kKeys) - 1;
  // Key tile 0 visits every query tile, so that d_q of tokens that see no key is written too.
  const int first_query = key_tile == 0 ? 0 : visible.query_begin(u0);
  const int tile_begin = first_query / C::kQueries;
  const int tile_end = first_query >= a.T ? tile_begin : (min(a.T, visible.query_end(u_last)) - 1) / C::kQueries + 1;
  const int tiles = tile_end - tile_begin, steps = max(0, head_end - head_begin) * max(0, tiles);

  const std::int64_t q_stride = static_cast<std::int64_t>(a.HQ) * kD, k_stride = static_cast<std::int64_t>(a.HK) * kD;
  const std::int64_t key_offset = (row * a.U + u0) * k_stride + kv_head * kD;
  const std::int64_t query_row = row * a.T;

  const auto load_queries = [&](int step, int stage) {
    const int head = kv_head * G + head_begin + step / tiles, t0 = (tile_begin + step % tiles) * C::kQueries;
    const std::int64_t position = (query_row + t0) * a.HQ + head;
    load_rows<C::kThreads>(shared.q[stage], a.q + position * kD, q_stride, a.T - t0, thread);
    load_rows<C::kThreads>(shared.d_out[stage], a.d_out + position * kD, q_stride, a.T - t0, thread);
    if (thread < 2 * C::kQueries) {  // lse and delta of a query beyond T become 0: with q = d_out = 0 it adds nothing
      const int i = thread % C::kQueries;
      const bool inside = t0 + i < a.T, is_lse = thread < C::kQueries;
      copy_async_4(shared_address(is_lse ? &shared.lse[stage][i] : &shared.delta[stage][i]),
                   (is_lse ? a.lse : a.delta) + position + (inside ? static_cast<std::int64_t>(i) * a.HQ : 0), inside);
    }
  };
  static_assert(2 * C::kQueries <= C::kThreads);

  load_rows<C::kThreads>(shared.k, a.k + key_offset, k_stride, a.U - u0, thread);
  load_rows<C::kThreads>(shared.v, a.v + key_offset, k_stride, a.U - u0, thread);
  if (steps > 0) load_queries(0, 0);
  copy_async_commit();
  copy_async_wait<0>();
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
  int* announced = nullptr;  // the counter of the previous step's tile of d_q, and what it becomes
  int announced_value = 0;

  int stage = 0;
  for (int step = 0; step < steps; ++step, stage ^= 1) {
    copy_async_wait<0>();
    __syncthreads();  // this stage is there; every warp has left the other one, d_scores, and its additions to d_q
    if (step + 1 < steps) load_queries(step + 1, stage ^ 1);
    copy_async_commit();

    const int head = kv_head * G + head_begin + step / tiles, query_tile = tile_begin + step % tiles;
    const int t0 = query_tile * C::kQueries, t_last = min(a.T, t0 + C::kQueries) - 1;
    const bool masked = u0 + C::kKeys > visible.key_end(t0) || u0 < visible.key_begin(t_last);

#pragma unroll 1
    for (int q0 = 0; q0 < C::kQueries; q0 += kQ) {
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
            if (!visible.sees(t, u)) p[n][e] = 0;  // also where lse is -infinity
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

    // Key tiles reach a tile of d_q from the last one that it sees down: `turn` of them come before this one.
    const int turn = max(0, visible.key_end(t_last) - 1) / C::kKeys - key_tile;
    int* done = a.queries_done + (row * a.HQ + head) * a.query_tiles + query_tile;
    if (thread == 0) {
      if (announced) announce(announced, announced_value);
      wait_for(done, turn);
    }
    __syncthreads();  // d_scores is complete, and it is this block's turn
    announced = done;
    announced_value = turn + 1;

    float d_q[C::kWarpRows / 16][C::kWarpCols / 8][4] = {};
    const int warp_row = warp % C::kRowWarps * C::kWarpRows, warp_col = warp / C::kRowWarps * C::kWarpCols;
#pragma unroll
    for (int kk = 0; kk < C::kKeys / 16; ++kk) {
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
    const bool add = a.accumulate_q || turn > 0;
#pragma unroll
    for (int i = 0; i < C::kWarpRows / 16; ++i)
#pragma unroll
      for (int d = 0; d < C::kWarpCols / 8; ++d) {
#pragma unroll
        for (int e = 0; e < 4; ++e) d_q[i][d][e] *= a.scale;
        const RowOfFour four = row_of_four(d_q[i][d], lane);
        const int t = t0 + warp_row + i * 16 + four.row;
        if (t >= a.T) continue;
        auto* to =
            reinterpret_cast<float4*>(a.d_q + ((query_row + t) * a.HQ + head) * kD + warp_col + d * 8 + four.col);
        if (add)
          reduce_add(to, four.values);
        else
          *to = four.values;
      }
  }

  // The chunks of a group's heads add to d_k and d_v in their order.
  int* keys_done = a.keys_done + static_cast<std::int64_t>(row_head) * a.key_tiles + key_tile;
  __syncthreads();
  if (thread == 0) {
    if (announced) announce(announced, announced_value);
    if (chunk > 0) wait_for(keys_done, chunk);
  }
  __syncthreads();
  const bool add = a.accumulate_kv || chunk > 0;
#pragma unroll
  for (int d = 0; d < kD / 8; ++d) {
#pragma unroll
    for (int e = 0; e < 4; ++e) d_k[d][e] *= a.scale;
    const RowOfFour k_four = row_of_four(d_k[d], lane), v_four = row_of_four(d_v[d], lane);
    const int u = warp * 16 + k_four.row;
    if (u0 + u >= a.U) continue;
    const std::int64_t offset = key_offset + u * k_stride + d * 8 + k_four.col;
    if (add) {
      reduce_add(reinterpret_cast<float4*>(a.d_k + offset), k_four.values);
      reduce_add(reinterpret_cast<float4*>(a.d_v + offset), v_four.values);
    } else {
      *reinterpret_cast<float4*>(a.d_k + offset) = k_four.values;
      *reinterpret_cast<float4*>(a.d_v + offset) = v_four.values;
    }
  }
  if (chunk + 1 < a.chunks) {
    __syncthreads();
    if (thread == 0) announce(keys_done, chunk + 1);
  }
}

}  // namespace ssa::cuda
