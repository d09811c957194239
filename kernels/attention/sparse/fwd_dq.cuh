// The schedules of the forward and of d_q: one warp per token, whose heads are the rows of the products. The last two
// warps of a CTA load keys. A warp fetches the rows of its next token while it works on the current one.
#pragma once

#include "key_stream.cuh"

namespace ssa::cuda {

/// row_max is raised only when a score exceeds it by this much, in powers of two: f32 sums and bf16 probabilities are
/// as exact at 2^8 as at 1, and most steps need no maximum over lanes and no rescaling.
inline constexpr float kRescaleSlack = 8;

/// The running softmax of one token and its unnormalized output. [2]: rows r and r + 8 of a fragment.
template <class C>
struct ForwardState {
  static constexpr int kD = C::kD;
  float out[kD / 8][4] = {};
  float row_max[2] = {-kInfinity, -kInfinity}, row_sum[2] = {};

  /// Adds kUnits units of one stage. Two units at once overlap better than one after the other.
  template <int kUnits>
  __device__ __forceinline__ void add(const KeyStream<C>& keys, const StageWord& word, const int (&unit)[kUnits],
                                      const std::uint32_t (&q)[kD / 16][4], float scale2, float slack, int lane) {
    float scores[kUnits][2][4] = {};
#pragma unroll
    for (int i = 0; i < kUnits; ++i) multiply_unit<kD>(scores[i], q, keys.k(unit[i]), lane);
    if (word.is_cut(unit[kUnits - 1]))
      apply_mask(scores[kUnits - 1], word.limit(), lane);  // only the token's last unit
    float lane_max[2] = {-kInfinity, -kInfinity};
#pragma unroll
    for (int i = 0; i < kUnits; ++i)
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) lane_max[e / 2] = fmaxf(lane_max[e / 2], scores[i][n][e]);
    if (__any_sync(kFullMask, lane_max[0] > row_max[0] + slack || lane_max[1] > row_max[1] + slack)) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        // Finite: the first key of a unit is visible.
        const float row_max_new = fmaxf(row_max[half], quad_max(lane_max[half]));
        const float rescale = exp2_fast((row_max[half] - row_max_new) * scale2);
        row_max[half] = row_max_new;
        row_sum[half] *= rescale;
#pragma unroll
        for (int d = 0; d < kD / 8; ++d) out[d][2 * half] *= rescale, out[d][2 * half + 1] *= rescale;
      }
    }
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          scores[i][n][e] = exp2_fast(scores[i][n][e] * scale2 - row_max[e / 2] * scale2);
          row_sum[e / 2] += scores[i][n][e];
        }
      std::uint32_t p[4];
      pack_a(p, scores[i][0], scores[i][1]);
      add_unit<kD>(out, p, keys.v(unit[i]), lane);
    }
  }
};

/// Persistent: CTA i takes tiles i, i + gridDim.x, ...
template <class C>
__global__ void __launch_bounds__(C::kThreads, 1)
    sparse_forward_kernel(__nv_bfloat16* out_, float* lse, const __grid_constant__ SparseArgs a,
                          const __grid_constant__ KeyMaps maps, const __grid_constant__ TokenTiles tiles) {
  if constexpr (C::kTma && !SSA_WGMMA_CODE) return;
  extern __shared__ __align__(1024) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<ForwardShared<C>*>(shared_bytes);
  constexpr int kD = C::kD;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize, lane = static_cast<int>(threadIdx.x) % kWarpSize;
  init_key_stream<C>(shared);
  if (warp >= C::kTokens) {
    load_key_stream<C>(shared, a, maps, tiles);
    return;
  }
  KeyStream<C> keys(shared, warp, lane);
  const float scale2 = a.scale * kLog2e, slack = kRescaleSlack / scale2;

  TokenTask next;
  const auto fetch = [&](int tile) {
    if (tile < tiles.count()) {
      next = tiles.task<C>(tile, warp, a);
      fetch_rows<kD>(shared.q[warp], a.q + next.position(a) * kD, next.heads, lane);
    }
    cp_async_commit_group();
  };
  fetch(static_cast<int>(blockIdx.x));
  for (int tile = static_cast<int>(blockIdx.x); tile < tiles.count(); tile += static_cast<int>(gridDim.x)) {
    const TokenTask task = next;
    std::uint32_t q[kD / 16][4];
    cp_async_wait_group<0>();
    __syncwarp();
#pragma unroll
    for (int kk = 0; kk < kD / 16; ++kk) load_a(q[kk], shared.q[warp], 0, kk, lane);
    __syncwarp();  // all lanes have read before the next rows arrive
    fetch(tile + static_cast<int>(gridDim.x));

    ForwardState<C> state;
    StageWord word;
    do {
      word = keys.wait();
#pragma unroll 1
      for (unsigned units = word.units(); units;) {
        const int first = __ffs(static_cast<int>(units)) - 1;
        units &= units - 1;
        if (kD == 64 && units) {
          const int pair[2] = {first, __ffs(static_cast<int>(units)) - 1};
          units &= units - 1;
          state.add(keys, word, pair, q, scale2, slack, lane);
        } else {
          const int single[1] = {first};
          state.add(keys, word, single, q, scale2, slack, lane);
        }
      }
      keys.release();
    } while (!word.last());

    const std::int64_t position = task.position(a);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int h = (lane >> 2) + half * 8;
      const float total = quad_sum(state.row_sum[half]);
      const float inverse = total == 0 ? 0.0f : __fdividef(1.0f, total);
      if (h >= task.heads) continue;
      if ((lane & 3) == 0)
        lse[position + h] = total == 0 ? -kInfinity : state.row_max[half] * a.scale + __log2f(total) * kLn2;
      auto* to = reinterpret_cast<std::uint32_t*>(out_ + (position + h) * kD);
#pragma unroll
      for (int d = 0; d < kD / 8; ++d)
        to[d * 4 + (lane & 3)] = pack_bf16(state.out[d][2 * half] * inverse, state.out[d][2 * half + 1] * inverse);
    }
  }
}

/// d_q = scale dS k, with dS = P (dP - delta). The same loop as the forward.
template <class C>
__global__ void __launch_bounds__(C::kThreads, 1)
    sparse_d_q_kernel(float* d_q_, const __nv_bfloat16* d_out, const float* delta_, const float* lse_,
                      const __grid_constant__ SparseArgs a, const __grid_constant__ KeyMaps maps,
                      const __grid_constant__ TokenTiles tiles, const bool accumulate) {
  if constexpr (C::kTma && !SSA_WGMMA_CODE) return;
  extern __shared__ __align__(1024) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<QueryGradientShared<C>*>(shared_bytes);
  constexpr int kD = C::kD;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize, lane = static_cast<int>(threadIdx.x) % kWarpSize;
  init_key_stream<C>(shared);
  if (warp >= C::kTokens) {
    load_key_stream<C>(shared, a, maps, tiles);
    return;
  }
  KeyStream<C> keys(shared, warp, lane);
  const float scale2 = a.scale * kLog2e;

  TokenTask next;
  const auto fetch = [&](int tile) {
    if (tile < tiles.count()) {
      next = tiles.task<C>(tile, warp, a);
      const std::int64_t position = next.position(a);
      fetch_rows<kD>(shared.q[warp], a.q + position * kD, next.heads, lane);
      fetch_rows<kD>(shared.d_out[warp], d_out + position * kD, next.heads, lane);
      const int h = lane % kUnit;
      cp_async_4(shared_address(lane < kUnit ? &shared.lse[warp][h] : &shared.delta[warp][h]),
                 (lane < kUnit ? lse_ : delta_) + position + h, h < next.heads);
    }
    cp_async_commit_group();
  };
  fetch(static_cast<int>(blockIdx.x));
  for (int tile = static_cast<int>(blockIdx.x); tile < tiles.count(); tile += static_cast<int>(gridDim.x)) {
    const TokenTask task = next;
    std::uint32_t q[kD / 16][4], d_o[kD / 16][4];
    float lse2[2], delta[2];
    cp_async_wait_group<0>();
    __syncwarp();
#pragma unroll
    for (int kk = 0; kk < kD / 16; ++kk) {
      load_a(q[kk], shared.q[warp], 0, kk, lane);
      load_a(d_o[kk], shared.d_out[warp], 0, kk, lane);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      lse2[half] = shared.lse[warp][(lane >> 2) + half * 8] * kLog2e;
      delta[half] = shared.delta[warp][(lane >> 2) + half * 8];
    }
    __syncwarp();  // all lanes have read before the next rows arrive
    fetch(tile + static_cast<int>(gridDim.x));

    float d_q[kD / 8][4] = {};
    StageWord word;
    do {
      word = keys.wait();
#pragma unroll 1
      for (unsigned units = word.units(); units; units &= units - 1) {
        const int unit = __ffs(static_cast<int>(units)) - 1;
        float scores[2][4] = {}, d_p[2][4];
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) d_p[n][e] = -delta[e / 2];
        multiply_unit<kD>(scores, q, keys.k(unit), lane);
        multiply_unit<kD>(d_p, d_o, keys.v(unit), lane);
        if (word.is_cut(unit)) apply_mask(scores, word.limit(), lane);
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) d_p[n][e] *= exp2_fast(scores[n][e] * scale2 - lse2[e / 2]);
        std::uint32_t d_s[4];
        pack_a(d_s, d_p[0], d_p[1]);
        add_unit<kD>(d_q, d_s, keys.k(unit), lane);
      }
      keys.release();
    } while (!word.last());

    const std::int64_t position = task.position(a);
#pragma unroll
    for (int d = 0; d < kD / 8; ++d) {
      const RowOfFour four = row_of_four(d_q[d], lane);
      if (four.row >= task.heads) continue;
      auto* to = reinterpret_cast<float4*>(d_q_ + (position + four.row) * kD + d * 8 + four.col);
      store_or_add(to, four.values * a.scale, accumulate);
    }
  }
}

}  // namespace ssa::cuda
