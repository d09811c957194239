// Operations on one unit of keys or 16 query rows, shared by the kernels of this directory.
#pragma once

#include "config.cuh"

namespace ssa::cuda {

/// A operand, all of D, straight from global memory: 16 rows, `stride` elements apart; rows at and after `rows` are 0.
template <int kD>
__device__ __forceinline__ void load_a_rows(std::uint32_t (&a)[kD / 16][4], const __nv_bfloat16* from,
                                            std::int64_t stride, int rows, int lane) {
  const int r = lane >> 2;
  const __nv_bfloat16* top = from + r * stride + (lane & 3) * 2;
  const __nv_bfloat16* bottom = top + 8 * stride;
#pragma unroll
  for (int kk = 0; kk < kD / 16; ++kk)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int column = kk * 16 + half * 8;
      a[kk][2 * half] = r < rows ? *reinterpret_cast<const std::uint32_t*>(top + column) : 0u;
      a[kk][2 * half + 1] = r + 8 < rows ? *reinterpret_cast<const std::uint32_t*>(bottom + column) : 0u;
    }
}

/// Starts the copy of up to 16 consecutive rows; rows at and after `rows` become 0.
template <int kD>
__device__ __forceinline__ void fetch_rows(const Tile<kUnit, kD>& to, const __nv_bfloat16* from, int rows, int lane) {
  constexpr int kChunks = kD / 8, kRowsAtOnce = kWarpSize / kChunks;
#pragma unroll
  for (int i = 0; i < kUnit; i += kRowsAtOnce) {
    const int r = i + lane / kChunks, chunk = lane % kChunks;
    cp_async_16(to.address(r, chunk), from + r * kD + chunk * 8, r < rows);
  }
}

/// products (16 x 16) += a (16 x D) times the transpose of a unit of keys or values.
template <int kD>
__device__ __forceinline__ void multiply_unit(float (&products)[2][4], const std::uint32_t (&a)[kD / 16][4],
                                              std::uint32_t unit, int lane) {
  const int row = (lane & 7) + ((lane >> 4) << 3), half = (lane >> 3) & 1;
#pragma unroll
  for (int kk = 0; kk < kD / 16; ++kk) {
    std::uint32_t b[4];
    ldmatrix(b, unit + Tile<kUnit, kD>::offset(row, 2 * kk + half));
    mma(products[0], a[kk], b[0], b[1]);
    mma(products[1], a[kk], b[2], b[3]);
  }
}

/// sums (16 x D) += a (16 x 16) times a unit of keys or values.
template <int kD>
__device__ __forceinline__ void add_unit(float (&sums)[kD / 8][4], const std::uint32_t (&a)[4], std::uint32_t unit,
                                         int lane) {
#pragma unroll
  for (int d = 0; d < kD / 16; ++d) {
    std::uint32_t b[4];
    ldmatrix_trans(b, unit + Tile<kUnit, kD>::offset(lane & 15, 2 * d + (lane >> 4)));
    mma(sums[2 * d], a, b[0], b[1]);
    mma(sums[2 * d + 1], a, b[2], b[3]);
  }
}

/// Sets the scores of keys after `limit`, counted within the unit, to -infinity.
__device__ __forceinline__ void apply_mask(float (&scores)[2][4], int limit, int lane) {
#pragma unroll
  for (int n = 0; n < 2; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      if (n * 8 + (lane & 3) * 2 + (e & 1) > limit) scores[n][e] = -kInfinity;
}

}  // namespace ssa::cuda
