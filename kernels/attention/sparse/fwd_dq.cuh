// The schedules of the forward and of d_q: one warp per token, or per 16 / G adjacent tokens if the group has G <= 8
// heads (packed). Their heads are the rows of the products. The last two warps of a CTA load keys. A warp fetches the
// rows of its next tokens while it works on the current ones.
#pragma once

#include "key_stream.cuh"

namespace ssa::cuda {

/// row_max is raised only when a score exceeds it by this much, in powers of two: f32 sums and bf16 probabilities are
/// as exact at 2^8 as at 1, and most steps need no maximum over lanes and no rescaling.
inline constexpr float kRescaleSlack = 8;

/// A copy of x that the compiler computes with anew, so that it keeps no results in registers from task to task.
__device__ __forceinline__ int opaque(int x) {
  asm volatile("mov.b32 %0, %0;" : "+r"(x));
  return x;
}

/// Starts the copy of the rows of a task from [B, T, HQ, D]; other rows become 0. `first`: position of the first row.
template <class C>
__device__ __forceinline__ void fetch_task_rows(const Tile<kUnit, C::kD>& to, const __nv_bfloat16* from,
                                                std::int64_t first, int rows, const TokenTiles& tiles,
                                                const SparseArgs& a, int lane) {
  if constexpr (C::kPacked) {
    constexpr int kChunks = C::kD / 8, kRowsAtOnce = kWarpSize / kChunks;
    lane = opaque(lane);
#pragma unroll
    for (int i = 0; i < kUnit; i += kRowsAtOnce) {
      const int r = i + lane / kChunks, chunk = lane % kChunks;
      cp_async_16(to.address(r, chunk), from + tiles.position<C>(first, r, a) * C::kD + chunk * 8, r < rows);
    }
  } else {
    fetch_rows<C::kD>(to, from + first * C::kD, rows, lane);
  }
}

/// The running softmax of a warp's rows and their unnormalized output. [2]: rows r and r + 8 of a fragment.
template <class C>
struct ForwardState {
  static constexpr int kD = C::kD;
  /// Packed: finite, because no key of a unit may be visible to a row. Below all scores.
  static constexpr float kLowest = C::kPacked ? -1e30f : -kInfinity;
  float out[kD / 8][4] = {};
  float row_max[2] = {kLowest, kLowest}, row_sum[2] = {};

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
    raise(lane_max, scale2, slack);
#pragma unroll
    for (int i = 0; i < kUnits; ++i) add_values(scores[i], row_max, keys.v(unit[i]), scale2, lane);
  }

  /// Packed: a row takes only the units that its token selected.
  template <int kUnits>
  __device__ __forceinline__ void add(const KeyStream<C>& keys, const PackedStageWord& word, const PackedRows& rows,
                                      int t, const int (&unit)[kUnits], const std::uint32_t (&q)[kD / 16][4],
                                      float scale2, float slack, int lane) {
    float scores[kUnits][2][4] = {};
    std::uint32_t tokens[kUnits];
#pragma unroll
    for (int i = 0; i < kUnits; ++i) tokens[i] = word.tokens_of(unit[i]);
#pragma unroll
    for (int i = 0; i < kUnits; ++i) multiply_unit<kD>(scores[i], q, keys.k(unit[i]), lane);
#pragma unroll
    for (int i = 0; i < kUnits; ++i)
      if (word.is_cut(unit[i])) rows.apply_cut(scores[i], t - keys.first(unit[i]), lane);
    float lane_max[2] = {-kInfinity, -kInfinity};
#pragma unroll
    for (int i = 0; i < kUnits; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float first = fmaxf(scores[i][0][2 * half], scores[i][0][2 * half + 1]);
        const float second = fmaxf(scores[i][1][2 * half], scores[i][1][2 * half + 1]);
        if (rows.chose(tokens[i], half)) lane_max[half] = fmaxf(lane_max[half], fmaxf(first, second));
      }
    raise(lane_max, scale2, slack);
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
      float subtrahend[2];  // exp2(-infinity) = 0 for rows whose token did not select the unit
#pragma unroll
      for (int half = 0; half < 2; ++half) subtrahend[half] = rows.chose(tokens[i], half) ? row_max[half] : kInfinity;
      add_values(scores[i], subtrahend, keys.v(unit[i]), scale2, lane);
    }
  }

 private:
  /// Raises row_max where a score exceeds it by more than `slack`.
  __device__ __forceinline__ void raise(const float (&lane_max)[2], float scale2, float slack) {
    if (__any_sync(kFullMask, lane_max[0] > row_max[0] + slack || lane_max[1] > row_max[1] + slack)) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        // Finite. Not packed: the first key of a unit is visible.
        const float row_max_new = fmaxf(row_max[half], quad_max(lane_max[half]));
        const float rescale = exp2_fast((row_max[half] - row_max_new) * scale2);
        row_max[half] = row_max_new;
        row_sum[half] *= rescale;
#pragma unroll
        for (int d = 0; d < kD / 8; ++d) out[d][2 * half] *= rescale, out[d][2 * half + 1] *= rescale;
      }
    }
  }

  /// p = exp(scale (scores - subtrahend)); adds p to row_sum and p v to out.
  __device__ __forceinline__ void add_values(float (&scores)[2][4], const float (&subtrahend)[2], std::uint32_t values,
                                             float scale2, int lane) {
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        scores[n][e] = exp2_fast(scores[n][e] * scale2 - subtrahend[e / 2] * scale2);
        row_sum[e / 2] += scores[n][e];
      }
    std::uint32_t p[4];
    pack_a(p, scores[0], scores[1]);
    add_unit<kD>(out, p, values, lane);
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
  if (warp >= C::kTokenWarps) {
    load_key_stream<C>(shared, a, maps, tiles);
    return;
  }
  KeyStream<C> keys(shared, tiles, warp, lane);
  [[maybe_unused]] const PackedRows rows(tiles, a, lane);
  const float scale2 = a.scale * kLog2e, slack = kRescaleSlack / scale2;

  TokenTask next;
  const auto fetch = [&](int tile) {
    if (tile < tiles.count()) {
      next = tiles.task<C>(tile, warp, a);
      fetch_task_rows<C>(shared.q[warp], a.q, next.position(a), next.rows, tiles, a, lane);
    }
    cp_async_commit_group();
  };
  fetch(static_cast<int>(blockIdx.x));
  for (int tile = static_cast<int>(blockIdx.x); tile < tiles.count(); tile += static_cast<int>(gridDim.x)) {
    const TokenTask task = C::kPacked ? tiles.task<C>(tile, opaque(warp), a) : next;  // no registers to keep it
    std::uint32_t q[kD / 16][4];
    cp_async_wait_group<0>();
    __syncwarp();
#pragma unroll
    for (int kk = 0; kk < kD / 16; ++kk) load_a(q[kk], shared.q[warp], 0, kk, lane);
    __syncwarp();  // all lanes have read before the next rows arrive
    fetch(tile + static_cast<int>(gridDim.x));

    ForwardState<C> state;
    typename KeyStream<C>::Word word;
    const auto add = [&](const auto& unit) {
      if constexpr (C::kPacked)
        state.add(keys, word, rows, task.t, unit, q, scale2, slack, lane);
      else
        state.add(keys, word, unit, q, scale2, slack, lane);
    };
    do {
      word = keys.wait(task.t, tiles.tokens_per_warp());
#pragma unroll 1
      for (unsigned units = word.units(); units;) {
        const int first = __ffs(static_cast<int>(units)) - 1;
        units &= units - 1;
        if (kD == 64 && units) {
          const int pair[2] = {first, __ffs(static_cast<int>(units)) - 1};
          units &= units - 1;
          add(pair);
        } else {
          const int single[1] = {first};
          add(single);
        }
      }
      keys.release();
    } while (!word.last());

    const TokenTask done = C::kPacked ? tiles.task<C>(opaque(tile), opaque(warp), a) : task;
    const std::int64_t first_position = done.position(a);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = (lane >> 2) + half * 8;
      const float total = quad_sum(state.row_sum[half]);
      const float inverse = total == 0 ? 0.0f : __fdividef(1.0f, total);
      if (row >= done.rows) continue;
      const std::int64_t position = tiles.position<C>(first_position, row, a);
      if ((lane & 3) == 0)
        lse[position] = total == 0 ? -kInfinity : state.row_max[half] * a.scale + __log2f(total) * kLn2;
      auto* to = reinterpret_cast<std::uint32_t*>(out_ + position * kD);
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
  let_next_kernel_start();
  extern __shared__ __align__(1024) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<QueryGradientShared<C>*>(shared_bytes);
  constexpr int kD = C::kD;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize, lane = static_cast<int>(threadIdx.x) % kWarpSize;
  init_key_stream<C>(shared);
  if (warp >= C::kTokenWarps) {
    load_key_stream<C>(shared, a, maps, tiles);
    end_after_previous_kernel();
    return;
  }
  KeyStream<C> keys(shared, tiles, warp, lane);
  [[maybe_unused]] const PackedRows rows(tiles, a, lane);
  const float scale2 = a.scale * kLog2e;

  TokenTask next;
  const auto fetch = [&](int tile) {
    if (tile < tiles.count()) {
      next = tiles.task<C>(tile, warp, a);
      const std::int64_t position = next.position(a);
      fetch_task_rows<C>(shared.q[warp], a.q, position, next.rows, tiles, a, lane);
      fetch_task_rows<C>(shared.d_out[warp], d_out, position, next.rows, tiles, a, lane);
      const int row = lane % kUnit;
      cp_async_4(shared_address(lane < kUnit ? &shared.lse[warp][row] : &shared.delta[warp][row]),
                 (lane < kUnit ? lse_ : delta_) + tiles.position<C>(position, row, a), row < next.rows);
    }
    cp_async_commit_group();
  };
  fetch(static_cast<int>(blockIdx.x));
  for (int tile = static_cast<int>(blockIdx.x); tile < tiles.count(); tile += static_cast<int>(gridDim.x)) {
    const TokenTask task = C::kPacked ? tiles.task<C>(tile, opaque(warp), a) : next;  // no registers to keep it
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
    typename KeyStream<C>::Word word;
    do {
      word = keys.wait(task.t, tiles.tokens_per_warp());
#pragma unroll 1
      for (unsigned units = word.units(); units; units &= units - 1) {
        const int unit = __ffs(static_cast<int>(units)) - 1;
        float subtrahend[2] = {lse2[0], lse2[1]};
        if constexpr (C::kPacked) {  // exp2(-infinity) = 0 for rows whose token did not select the unit
          const std::uint32_t tokens = word.tokens_of(unit);
#pragma unroll
          for (int half = 0; half < 2; ++half)
            if (!rows.chose(tokens, half)) subtrahend[half] = kInfinity;
        }
        float scores[2][4] = {}, d_p[2][4];
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) d_p[n][e] = -delta[e / 2];
        multiply_unit<kD>(scores, q, keys.k(unit), lane);
        multiply_unit<kD>(d_p, d_o, keys.v(unit), lane);
        if (word.is_cut(unit)) {
          if constexpr (C::kPacked)
            rows.apply_cut(scores, task.t - keys.first(unit), lane);
          else
            apply_mask(scores, word.limit(), lane);
        }
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) d_p[n][e] *= exp2_fast(scores[n][e] * scale2 - subtrahend[e / 2]);
        std::uint32_t d_s[4];
        pack_a(d_s, d_p[0], d_p[1]);
        add_unit<kD>(d_q, d_s, keys.k(unit), lane);
      }
      keys.release();
    } while (!word.last());

    const TokenTask done = C::kPacked ? tiles.task<C>(opaque(tile), opaque(warp), a) : task;
    const std::int64_t first_position = done.position(a);
#pragma unroll
    for (int d = 0; d < kD / 8; ++d) {
      const RowOfFour four = row_of_four(d_q[d], lane);
      if (four.row >= done.rows) continue;
      auto* to =
          reinterpret_cast<float4*>(d_q_ + tiles.position<C>(first_position, four.row, a) * kD + d * 8 + four.col);
      store_or_add(to, four.values * a.scale, accumulate);
    }
  }
  end_after_previous_kernel();
}

}  // namespace ssa::cuda
