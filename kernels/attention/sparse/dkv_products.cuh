// Shared by the two kernels of d_k and d_v: a warp takes 16 keys and adds up the queries that selected them.
#pragma once

#include "config.cuh"
#include "fragments.cuh"

namespace ssa::cuda {

/// Where d_k and d_v go. A part is the partial sum of one segment or dense group, [2, block_size, D] f32: d_k, d_v. A
/// head is a (batch, key/value head) pair.
struct SparseKeyGradients {
  float *d_k, *d_v;         ///< [B, T, HK, D]
  float* partials;          ///< [heads * max_segments] parts; used for blocks that have more than one part
  float* dense_partials;    ///< [heads * max_dense] parts
  std::int64_t first_head;  ///< of the heads of this launch
  bool accumulate;
};

/// Adds 16 query rows of the tiles, beginning at row0, to d_k and d_v (16 x D):
///   P = exp(S - lse), dS = P (dP - delta);  d_v += P^T d_out, d_k += dS^T q
/// value_fragment(v, kk) gives the A operand of the values; mask(p, n) sets the probabilities of keys that a query does
/// not see to 0, in columns 8 n .. 8 n + 7.
template <int kD, class TileType, class ValueFragment, class Mask>
__device__ __forceinline__ void add_rows(float (&d_k)[kD / 8][4], float (&d_v)[kD / 8][4],
                                         const std::uint32_t (&k)[kD / 16][4], ValueFragment&& value_fragment,
                                         const TileType& q, const TileType& d_out, int row0, const float* lse,
                                         const float* delta, float scale2, Mask&& mask, int lane) {
  // Keys are the rows of the products, so that p and d_s are the A operands of d_v and d_k as they are.
  float p[2][4] = {}, dp[2][4] = {};
#pragma unroll
  for (int kk = 0; kk < kD / 16; ++kk) {
    std::uint32_t v[4], b[4];
    value_fragment(v, kk);
    load_b(b, q, row0, kk, lane);
    mma(p[0], k[kk], b[0], b[1]);
    mma(p[1], k[kk], b[2], b[3]);
    load_b(b, d_out, row0, kk, lane);
    mma(dp[0], v, b[0], b[1]);
    mma(dp[1], v, b[2], b[3]);
  }
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const int i = row0 + n * 8 + (lane & 3) * 2;
    const float2 l = *reinterpret_cast<const float2*>(&lse[i]);
    const float2 d = *reinterpret_cast<const float2*>(&delta[i]);
#pragma unroll
    for (int e = 0; e < 4; ++e) p[n][e] = exp2_fast(p[n][e] * scale2 - ((e & 1) ? l.y : l.x) * kLog2e);
    mask(p[n], n);
#pragma unroll
    for (int e = 0; e < 4; ++e) dp[n][e] = p[n][e] * (dp[n][e] - ((e & 1) ? d.y : d.x));
  }
  std::uint32_t p_bf16[4], d_s[4];
  pack_a(p_bf16, p[0], p[1]);
  pack_a(d_s, dp[0], dp[1]);
#pragma unroll
  for (int d = 0; d < kD / 16; ++d) {
    std::uint32_t b[4];
    load_b_transposed(b, d_out, row0, d * 16, lane);
    mma(d_v[2 * d], p_bf16, b[0], b[1]);
    mma(d_v[2 * d + 1], p_bf16, b[2], b[3]);
    load_b_transposed(b, q, row0, d * 16, lane);
    mma(d_k[2 * d], d_s, b[0], b[1]);
    mma(d_k[2 * d + 1], d_s, b[2], b[3]);
  }
}

/// Stores the first `rows` rows of factor * sums (16 x D), `stride` elements apart; adds them with `add`.
template <int kD>
__device__ __forceinline__ void store_rows(float* to, std::int64_t stride, int rows, const float (&sums)[kD / 8][4],
                                           float factor, bool add, int lane) {
#pragma unroll
  for (int d = 0; d < kD / 8; ++d) {
    const RowOfFour four = row_of_four(sums[d], lane);
    if (four.row >= rows) continue;
    store_or_add(reinterpret_cast<float4*>(to + four.row * stride + d * 8 + four.col), four.values * factor, add);
  }
}

}  // namespace ssa::cuda
