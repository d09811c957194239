// The forward of dense attention for D = 64 in wgmma: while a warpgroup takes the exponentials of one half tile, its
// product with the values of the half before is under way, and the other warpgroups' products fill the rest.
#pragma once

#include "kernels/causal_attention/config.cuh"
#include "kernels/common/wgmma.cuh"

namespace ssa::cuda {

/// Block (h, i, b): the i-th query tile from the end (the longest rows start first) of head h of row b.
template <class C, class Visibility>
__global__ void __launch_bounds__(C::kThreads, 1)
    dense_forward_hopper_kernel(const DenseForwardArgs a, const Visibility visible) {
#if SSA_WGMMA_CODE
  extern __shared__ __align__(1024) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<typename C::Shared*>(shared_bytes);
  constexpr int kSlices = C::kD / 16, kN = C::kKeysAtOnce;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarpSize, lane = thread % kWarpSize;
  const int head = static_cast<int>(blockIdx.x), kv_head = head / (a.HQ / a.HK);
  const int t0 = static_cast<int>(gridDim.y - 1 - blockIdx.y) * C::kQueries;
  const int t_last = min(a.T, t0 + C::kQueries) - 1;
  const std::int64_t row = blockIdx.z;
  const int tile_first = visible.key_begin(t0) / C::kKeys;
  const int tiles = (min(a.U, visible.key_end(t_last)) + C::kKeys - 1) / C::kKeys - tile_first;

  /// The i-th tile from the end goes to stage i % kStages.
  const auto load_keys = [&](int i) {
    if (thread < C::kLoaders && i < tiles) {
      const int u0 = (tile_first + tiles - 1 - i) * C::kKeys, stage = i % C::kStages;
      const std::int64_t stride = a.HK * C::kD, offset = ((row * a.U + u0) * a.HK + kv_head) * C::kD;
      load_rows<C::kLoaders>(shared.k[stage], a.k + offset, stride, a.U - u0, thread);
      load_rows<C::kLoaders>(shared.v[stage], a.v + offset, stride, a.U - u0, thread);
    }
    copy_async_commit();
  };

  float out[C::kD / 8][4] = {};
  float best[2] = {-kInfinity, -kInfinity}, sum[2] = {};  // of rows lane / 4 and + 8; the sum is this lane's part
  const float scale2 = a.scale * kLog2e;
  float scores[kN / 8][4];
  std::uint32_t p[kN / 16][4];

  /// scores to p, with the maximum, the sums and the output moved to the new maximum. Every product is done by then.
  float correction[2];
  const auto softmax = [&]<bool kMasked>(int u0) {
    if constexpr (kMasked) {
#pragma unroll
      for (int n = 0; n < kN / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int t = t0 + warp * 16 + (lane >> 2) + (e & 2) * 4, u = u0 + n * 8 + (lane & 3) * 2 + (e & 1);
          if (!visible.sees(t, u)) scores[n][e] = -kInfinity;
        }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float top = best[half];
#pragma unroll
      for (int n = 0; n < kN / 8; ++n) top = fmaxf(top, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
      top = quad_max(top);
      const float shift = kMasked && top == -kInfinity ? 0.0f : top * scale2;  // a row may see no key of this half
      correction[half] = exp2_fast(best[half] * scale2 - shift);
      best[half] = top;
      float part = 0;
#pragma unroll
      for (int n = 0; n < kN / 8; ++n)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float& s = scores[n][2 * half + c];
          s = exp2_fast(s * scale2 - shift);
          part += s;
        }
      sum[half] = sum[half] * correction[half] + part;
    }
  };
  const auto is_masked = [&](int u0) { return u0 + kN > visible.key_end(t0) || u0 < visible.key_begin(t_last); };
  const auto first_key = [&](int i, int half) { return (tile_first + tiles - 1 - i) * C::kKeys + half * kN; };
  const auto pack = [&] {
#pragma unroll
    for (int m = 0; m < kN / 16; ++m) pack_a(p[m], scores[2 * m], scores[2 * m + 1]);
  };

  if (tiles > 0) {
    load_rows<C::kThreads>(shared.q, a.q + ((row * a.T + t0) * a.HQ + head) * C::kD,
                           static_cast<std::int64_t>(a.HQ) * C::kD, a.T - t0, thread);
    load_keys(0);
    load_keys(1);
    copy_async_wait<1>();
    fence_shared_for_wgmma();
    __syncthreads();
    std::uint32_t q[kSlices][4];
#pragma unroll
    for (int kk = 0; kk < kSlices; ++kk) load_a(q[kk], shared.q, warp * 16, kk, lane);

    const auto start_scores = [&](int i, int half) {
      const std::uint64_t keys = wgmma_operand(shared.k[i % C::kStages], half * kN);
#pragma unroll
      for (int kk = 0; kk < kSlices; ++kk) wgmma<false>(scores, q[kk], keys + kk * kNextAlongRow, kk > 0);
      wgmma_commit();
    };
    const auto start_output = [&](int i, int half) {
      const std::uint64_t values = wgmma_operand(shared.v[i % C::kStages], half * kN);
#pragma unroll
      for (int m = 0; m < kN / 16; ++m) wgmma<true>(out, p[m], values + m * kNextTransposed, true);
      wgmma_commit();
    };
    /// Scores of half `half` of tile i, beside the output of the half before.
    const auto advance = [&]<bool kMasked>(int i, int half) {
      wgmma_fence();
      start_scores(i, half);
      start_output(half ? i : i - 1, half ^ 1);
      wgmma_wait<1>();
      softmax.template operator()<kMasked>(first_key(i, half));
      wgmma_wait<0>();
#pragma unroll
      for (int d = 0; d < C::kD / 8; ++d)
#pragma unroll
        for (int e = 0; e < 4; ++e) out[d][e] *= correction[e / 2];
      pack();
    };
    const auto step = [&](int i, int half) {
      if (is_masked(first_key(i, half)))
        advance.template operator()<true>(i, half);
      else
        advance.template operator()<false>(i, half);
    };

    wgmma_fence();
    start_scores(0, 0);
    wgmma_wait<0>();
    softmax.template operator()<true>(first_key(0, 0));
    pack();
    for (int i = 0; i < tiles; ++i) {
      if (i > 0) step(i, 0);
      step(i, 1);
      copy_async_wait<0>();
      fence_shared_for_wgmma();
      __syncthreads();  // tile i + 1 is there, and every warpgroup has left tile i - 1
      load_keys(i + 2);
    }
    wgmma_fence();
    start_output(tiles - 1, 1);
    wgmma_wait<0>();
    copy_async_wait<0>();
  }

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float total = quad_sum(sum[half]);
    const float inverse = total == 0 ? 0.0f : 1 / total;
    const int t = t0 + warp * 16 + half * 8 + (lane >> 2);
    if (t >= a.T) continue;
    const std::int64_t position = (row * a.T + t) * a.HQ + head;
    if ((lane & 3) == 0) a.lse[position] = total == 0 ? -kInfinity : best[half] * a.scale + __log2f(total) * kLn2;
    auto* to = reinterpret_cast<std::uint32_t*>(a.out + position * C::kD);
#pragma unroll
    for (int d = 0; d < C::kD / 8; ++d)
      to[d * 4 + (lane & 3)] = pack_bf16(out[d][2 * half] * inverse, out[d][2 * half + 1] * inverse);
  }
#endif
}

}  // namespace ssa::cuda
