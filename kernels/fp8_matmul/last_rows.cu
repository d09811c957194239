// Up to 15 rows of a by all rows of b. A weight gradient has few columns and a sum as long as there are tokens, so a
// CTA takes a few columns and splits the sum over its threads. A thread takes 16 terms at a time, of the same scales.
#include <cuda_fp8.h>

#include "kernels/common/device/launch.cuh"
#include "kernels/common/device/reduce.cuh"
#include "kernels/common/device/vector.cuh"
#include "last_rows.h"

namespace ssa::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kRows = 4, kColumns = 2;  ///< of out, per CTA
constexpr int kTerms = 16;              ///< per load

/// An operand. Element (r, c) has the scale at scale_of(r, c).
struct Source {
  const std::uint8_t* values;
  const float* scales;
  std::int64_t stride, scale_stride, rows, blocks;
  bool square;

  explicit Source(const Fp8Matrix& m)
      : values(m.values.as<std::uint8_t>()),
        scales(m.scales.as<float>()),
        stride(m.values.dim(1)),
        scale_stride(m.scales.dim(1)),
        rows(m.rows),
        blocks(fp8_blocks_of(m.columns)),
        square(m.blocks == Fp8Blocks::square) {}

  __device__ __forceinline__ uint4 load(std::int64_t r, std::int64_t c) const {
    return __ldg(reinterpret_cast<const uint4*>(values + r * stride + c));
  }
  __device__ __forceinline__ float scale_of(std::int64_t r, std::int64_t c) const {
    return __ldg(scales + (square ? r / kFp8Block * scale_stride + c / kFp8Block
                                  : fp8_row_scale_index(rows, blocks, r, c / kFp8Block)));
  }
};

__device__ __forceinline__ float2 unpack_fp8(std::uint32_t raw, int pair) {
  const auto codes = static_cast<__nv_fp8x2_storage_t>(raw >> (16 * pair));
  return __half22float2(static_cast<__half2>(__nv_cvt_fp8x2_to_halfraw2(codes, __NV_E4M3)));
}

/// The sum of the products of 16 values.
__device__ __forceinline__ float dot(const uint4& a, const uint4& b) {
  const std::uint32_t of_a[4] = {a.x, a.y, a.z, a.w}, of_b[4] = {b.x, b.y, b.z, b.w};
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      const float2 x = unpack_fp8(of_a[i], pair), y = unpack_fp8(of_b[i], pair);
      sum = fmaf(x.x, y.x, sum);
      sum = fmaf(x.y, y.y, sum);
    }
  }
  return sum;
}

/// Grid: [columns / kColumns, last rows / kRows].
template <class Out>
__global__ void __launch_bounds__(kThreads)
    fp8_last_rows_kernel(Out* out, std::int64_t out_stride, const __grid_constant__ Source a,
                         const __grid_constant__ Source b, std::int64_t first, bool accumulate) {
  __shared__ float of_warps[kRows * kColumns][kThreads / kWarpSize];
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarpSize, lane = thread % kWarpSize;
  const std::int64_t row = first + std::int64_t{blockIdx.y} * kRows, column = std::int64_t{blockIdx.x} * kColumns;
  float sums[kRows][kColumns] = {};
  for (std::int64_t k = thread * kTerms; k < a.stride; k += kThreads * kTerms) {
    uint4 x[kRows], y[kColumns];
    float x_scale[kRows], y_scale[kColumns];
    // Past the last row or column the last one again, whose sums are not stored.
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      y[j] = b.load(min(column + j, b.rows - 1), k);
      y_scale[j] = b.scale_of(min(column + j, b.rows - 1), k);
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      x[i] = a.load(min(row + i, a.rows - 1), k);
      x_scale[i] = a.scale_of(min(row + i, a.rows - 1), k);
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) sums[i][j] = fmaf(dot(x[i], y[j]), x_scale[i] * y_scale[j], sums[i][j]);
    }
  }
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      const float sum = warp_sum(sums[i][j]);
      if (lane == 0) of_warps[i * kColumns + j][warp] = sum;
    }
  }
  __syncthreads();
  const std::int64_t m = row + thread / kColumns, n = column + thread % kColumns;
  if (thread >= kRows * kColumns || m >= a.rows || n >= b.rows) return;
  float sum = of_warps[thread][0];
#pragma unroll
  for (int w = 1; w < kThreads / kWarpSize; ++w) sum += of_warps[thread][w];
  Out& to = out[m * out_stride + n];
  if constexpr (sizeof(Out) == sizeof(float))
    to = accumulate ? to + sum : sum;
  else
    to = __float2bfloat16_rn(sum);
}

}  // namespace

void fp8_last_rows(Stream& stream, const Fp8Matmul& p) {
  const std::int64_t first = fp8_whole_rows(p.a.rows);
  const LaunchShape shape{.grid = {ctas_for(p.b.rows, kColumns), ctas_for(p.a.rows - first, kRows)}, .block = kThreads};
  const auto start = [&](auto kernel, auto* out) {
    launch(stream, "fp8_matmul", kernel, shape, out, p.out.dim(1), Source(p.a), Source(p.b), first, p.accumulate);
  };
  if (p.out.dtype() == DType::f32)
    start(fp8_last_rows_kernel<float>, p.out.as<float>());
  else
    start(fp8_last_rows_kernel<__nv_bfloat16>, bf16(p.out));
}

}  // namespace ssa::cuda
