// One CTA per tile of 128 x 128 elements: every element is read once, and written once per output.
#include "kernels/quantize_fp8/fp8_tile.cuh"
#include "quantize_fp8.h"

namespace ssa::cuda {
namespace {

template <bool kPlain, bool kTransposed>
__global__ void __launch_bounds__(kFp8TileThreads, kTransposed ? 4 : 3)
    quantize_fp8_kernel(Fp8Target plain, Fp8Target transposed, const __nv_bfloat16* x, int stride, int rows,
                        int columns) {
  __shared__ alignas(16) Fp8TileShared shared;
  const Fp8TilePlace at;
  const uint4 mask = mask_of_first(columns - at.column);
  uint4 tile[8];
#pragma unroll
  for (int i = 0; i < 8; ++i)
    tile[i] = at.row + i < rows && at.column < columns
                  ? __ldg(reinterpret_cast<const uint4*>(x + std::int64_t{at.row + i} * stride + at.column)) & mask
                  : uint4{};
  quantize_tile<kPlain, kTransposed, Fp8Sizes::any>(plain, transposed, shared, tile, at.tile_row, at.tile_column, rows,
                                                    columns);
}

}  // namespace

void quantize_fp8(Stream& stream, const QuantizeFp8& p) {
  const std::int64_t R = p.x.dim(0), C = p.columns();
  const auto kernel = p.plain && p.transposed ? quantize_fp8_kernel<true, true>
                      : p.plain               ? quantize_fp8_kernel<true, false>
                                              : quantize_fp8_kernel<false, true>;
  launch(stream, "quantize_fp8", kernel, fp8_tiles(R, C), Fp8Target(p.plain), Fp8Target(p.transposed), bf16(p.x),
         p.x.dim(1), R, C);
}

}  // namespace ssa::cuda
