// One CTA per tile of 128 x 128 elements, which is a block, as in quantize_fp8.cu. A thread loads those of its 8 x 8
// elements that belong to the part.
#include "kernels/quantize_fp8/fp8_tile.cuh"
#include "quantize_fp8_part.h"

namespace ssa::cuda {
namespace {

/// Elements first .. first + count - 1 of a matrix.
struct Fp8Part {
  const __nv_bfloat16* x;
  std::int64_t first, count;

  /// `at`: the first of 8 elements, all of which belong to the part or none.
  __device__ __forceinline__ bool has(std::int64_t at) const { return at >= first && at - first < count; }
  __device__ __forceinline__ uint4 load(std::int64_t at) const {
    return __ldg(reinterpret_cast<const uint4*>(x + (at - first)));
  }
};

__global__ void __launch_bounds__(kFp8TileThreads)
    fp8_part_maxima_kernel(unsigned* maxima, Fp8Part part, int rows, int columns, int stride) {
  constexpr int kWarps = kFp8TileThreads / kWarpSize;
  __shared__ unsigned of_warp[kWarps];
  const Fp8TilePlace at;
  unsigned largest = 0;  // of pairs, as bits of bf16
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const std::int64_t element = std::int64_t{at.row + i} * columns + at.column;
    if (at.row + i >= rows || at.column >= columns || !part.has(element)) continue;
    const uint4 x = part.load(element);
    const unsigned pairs[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
    for (const unsigned pair : pairs) largest = __vmaxu2(largest, pair & 0x7fff7fffu);
  }
  const unsigned of_this_warp = warp_max(larger_half(largest));
  const int thread = static_cast<int>(threadIdx.x);
  if (thread % kWarpSize == 0) of_warp[thread / kWarpSize] = of_this_warp;
  __syncthreads();
  if (thread > 0) return;
  unsigned of_block = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) of_block = max(of_block, of_warp[w]);
  maxima[at.tile_row * stride + at.tile_column] = of_block;
}

__global__ void __launch_bounds__(kFp8TileThreads)
    quantize_fp8_part_kernel(Fp8Target out, const unsigned* maxima, Fp8Part part, int rows, int columns) {
  const Fp8TilePlace at;
  const std::int64_t block = at.tile_row * out.scale_stride + at.tile_column;
  const Fp8Scale scale(maxima[block]);
  if (threadIdx.x == 0) out.scales[block] = scale.scale;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const std::int64_t element = std::int64_t{at.row + i} * columns + at.column;
    if (at.row + i < rows && at.column < columns && part.has(element))
      *reinterpret_cast<uint2*>(out.values + element) = round_fp8(part.load(element), scale.inverse);
  }
}

/// The bytes of 4 rows of 4 columns to those of 4 columns of 4 rows.
__device__ __forceinline__ uint4 transpose_bytes(unsigned a, unsigned b, unsigned c, unsigned d) {
  const unsigned ab01 = __byte_perm(a, b, 0x5140), ab23 = __byte_perm(a, b, 0x7362);
  const unsigned cd01 = __byte_perm(c, d, 0x5140), cd23 = __byte_perm(c, d, 0x7362);
  return make_uint4(__byte_perm(ab01, cd01, 0x5410), __byte_perm(ab01, cd01, 0x7632), __byte_perm(ab23, cd23, 0x5410),
                    __byte_perm(ab23, cd23, 0x7632));
}

__global__ void __launch_bounds__(kFp8TileThreads)
    transpose_fp8_kernel(Fp8Target out, const std::uint8_t* values, const float* scales, std::int64_t scale_stride,
                         int rows, int columns) {
  __shared__ alignas(16) Fp8TileChunks chunks;
  const Fp8TilePlace at;
  const int thread = static_cast<int>(threadIdx.x), g = thread / 16, l = thread % 16;
  if (thread == 0)
    out.scales[at.tile_column * out.scale_stride + at.tile_row] = scales[at.tile_row * scale_stride + at.tile_column];
  uint2 x[8];
#pragma unroll
  for (int i = 0; i < 8; ++i)
    x[i] = at.row + i < rows && at.column < columns
               ? __ldg(reinterpret_cast<const uint2*>(values + std::int64_t{at.row + i} * columns + at.column))
               : uint2{};
  const uint4 upper_left = transpose_bytes(x[0].x, x[1].x, x[2].x, x[3].x);
  const uint4 lower_left = transpose_bytes(x[4].x, x[5].x, x[6].x, x[7].x);
  const uint4 upper_right = transpose_bytes(x[0].y, x[1].y, x[2].y, x[3].y);
  const uint4 lower_right = transpose_bytes(x[4].y, x[5].y, x[6].y, x[7].y);
  const uint2 column[8] = {{upper_left.x, lower_left.x},   {upper_left.y, lower_left.y},
                           {upper_left.z, lower_left.z},   {upper_left.w, lower_left.w},
                           {upper_right.x, lower_right.x}, {upper_right.y, lower_right.y},
                           {upper_right.z, lower_right.z}, {upper_right.w, lower_right.w}};
#pragma unroll
  for (int j = 0; j < 8; ++j) chunks[8 * l + j][g ^ l] = column[j];
  __syncthreads();
  store_transposed<Fp8Sizes::any>(out, chunks, at.tile_row, at.tile_column, rows, columns);
}

Fp8Part part_of(const Tensor& x, std::int64_t first) { return {.x = bf16(x), .first = first, .count = x.count()}; }

unsigned* bits_of(const Tensor& maxima) { return reinterpret_cast<unsigned*>(maxima.as<std::int32_t>()); }

}  // namespace

void fp8_part_maxima(Stream& stream, const Fp8PartMaxima& p) {
  launch(stream, "fp8_part_maxima", fp8_part_maxima_kernel, fp8_tiles(p.rows, p.columns), bits_of(p.maxima),
         part_of(p.x, p.first), p.rows, p.columns, p.maxima.dim(1));
}

void quantize_fp8_part(Stream& stream, const QuantizeFp8Part& p) {
  const std::int64_t R = p.out.rows, C = p.out.columns;
  launch(stream, "quantize_fp8_part", quantize_fp8_part_kernel, fp8_tiles(R, C), Fp8Target(p.out), bits_of(p.maxima),
         part_of(p.x, p.first), R, C);
}

void transpose_fp8(Stream& stream, const TransposeFp8& p) {
  const std::int64_t R = p.x.rows, C = p.x.columns;
  launch(stream, "transpose_fp8", transpose_fp8_kernel, fp8_tiles(R, C), Fp8Target(p.out),
         p.x.values.as<std::uint8_t>(), p.x.scales.as<float>(), p.x.scales.dim(1), R, C);
}

}  // namespace ssa::cuda
