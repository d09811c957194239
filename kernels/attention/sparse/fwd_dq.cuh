// Forward and d_q of block-sparse attention: one warp is one token, its heads are the rows of the products. The last
// warps of a thread block load. A warp fetches its next token's rows while it works on one.
#pragma once

#include "key_stream.cuh"

namespace ssa::cuda {

/// The softmax's reference is raised only once a score is this far above it, in powers of two: f32 sums and bf16
/// probabilities are as exact at 2^8 as at 1, and most steps need no maximum over lanes and no rescaling.
inline constexpr float kSlack = 8;

template <class C>
struct ForwardShared : C::KeyShared {
  Tile<kUnit, C::kD> q[C::kTokens];
};

template <class C>
struct QueryGradientShared : C::KeyShared {
  Tile<kUnit, C::kD> q[C::kTokens], d_out[C::kTokens];
  float lse[C::kTokens][kUnit], delta[C::kTokens][kUnit];
};

/// Hides the keys after the token.
__device__ __forceinline__ void hide_later_keys(float (&scores)[2][4], int limit, int lane) {
#pragma unroll
  for (int n = 0; n < 2; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      if (n * 8 + (lane & 3) * 2 + (e & 1) > limit) scores[n][e] = -kInfinity;
}

/// One token's softmax so far, and its sum of values.
template <class C>
struct ForwardState {
  static constexpr int kD = C::kD;
  float out[kD / 8][4] = {};
  float best[2] = {-kInfinity, -kInfinity}, sum[2] = {};

  /// kUnits units of one stage: two of them overlap better than one after the other.
  template <int kUnits>
  __device__ __forceinline__ void add(const KeyStream<C>& keys, const StageWord& word, const int (&unit)[kUnits],
                                      const std::uint32_t (&q)[kD / 16][4], float scale2, float slack, int lane) {
    float scores[kUnits][2][4] = {};
#pragma unroll
    for (int i = 0; i < kUnits; ++i) multiply_unit<kD>(scores[i], q, keys.k(unit[i]), lane);
    if (word.is_cut(unit[kUnits - 1])) hide_later_keys(scores[kUnits - 1], word.limit(), lane);  // the token's last one
    float top[2] = {-kInfinity, -kInfinity};
#pragma unroll
    for (int i = 0; i < kUnits; ++i)
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) top[e / 2] = fmaxf(top[e / 2], scores[i][n][e]);
    if (__any_sync(kFullMask, top[0] > best[0] + slack || top[1] > best[1] + slack)) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float raised = fmaxf(best[half], quad_max(top[half]));  // finite: a unit's first key is seen
        const float correction = exp2_fast((best[half] - raised) * scale2);
        best[half] = raised;
        sum[half] *= correction;
#pragma unroll
        for (int d = 0; d < kD / 8; ++d) out[d][2 * half] *= correction, out[d][2 * half + 1] *= correction;
      }
    }
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          scores[i][n][e] = exp2_fast(scores[i][n][e] * scale2 - best[e / 2] * scale2);
          sum[e / 2] += scores[i][n][e];
        }
      std::uint32_t p[4];
      pack_a(p, scores[i][0], scores[i][1]);
      add_unit<kD>(out, p, keys.v(unit[i]), lane);
    }
  }
};

template <class C>
__global__ void __launch_bounds__(C::kThreads, 1)
    sparse_forward_kernel(__nv_bfloat16* out_, float* lse, const __grid_constant__ SparseArgs a,
                          const __grid_constant__ TokenTiles tiles) {
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<ForwardShared<C>*>(shared_bytes);
  constexpr int kD = C::kD;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize, lane = static_cast<int>(threadIdx.x) % kWarpSize;
  init_key_stream<C>(shared);
  if (warp >= C::kTokens) {
    load_key_stream<C>(shared, a, tiles);
    return;
  }
  KeyStream<C> keys(shared, warp, lane);
  const float scale2 = a.scale * kLog2e, slack = kSlack / scale2;

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
    __syncwarp();  // all have read before the next rows arrive
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
      const float total = quad_sum(state.sum[half]);
      const float inverse = total == 0 ? 0.0f : __fdividef(1.0f, total);
      if (h >= task.heads) continue;
      if ((lane & 3) == 0)
        lse[position + h] = total == 0 ? -kInfinity : state.best[half] * a.scale + __log2f(total) * kLn2;
      auto* to = reinterpret_cast<std::uint32_t*>(out_ + (position + h) * kD);
#pragma unroll
      for (int d = 0; d < kD / 8; ++d)
        to[d * 4 + (lane & 3)] = pack_bf16(state.out[d][2 * half] * inverse, state.out[d][2 * half + 1] * inverse);
    }
  }
}

template <class C>
__global__ void __launch_bounds__(C::kThreads, 1)
    sparse_d_q_kernel(float* d_q_, const __nv_bfloat16* d_out, const float* delta_, const float* lse_,
                      const __grid_constant__ SparseArgs a, const __grid_constant__ TokenTiles tiles,
                      const bool accumulate) {
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<QueryGradientShared<C>*>(shared_bytes);
  constexpr int kD = C::kD;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize, lane = static_cast<int>(threadIdx.x) % kWarpSize;
  init_key_stream<C>(shared);
  if (warp >= C::kTokens) {
    load_key_stream<C>(shared, a, tiles);
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
    __syncwarp();  // all have read before the next rows arrive
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
        if (word.is_cut(unit)) hide_later_keys(scores, word.limit(), lane);
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
      float4 value = make_float4(four.values.x * a.scale, four.values.y * a.scale, four.values.z * a.scale,
                                 four.values.w * a.scale);
      if (accumulate) {
        const float4 before = *to;
        value = make_float4(before.x + value.x, before.y + value.y, before.z + value.z, before.w + value.w);
      }
      *to = value;
    }
  }
}

}  // namespace ssa::cuda
