#include <algorithm>

#include "kernels/common/cpu/cpu.h"
#include "kernels/quantize_fp8/fp8_scale_cpu.h"
#include "quantize_fp8.h"

namespace ssa::cpu {
namespace {

/// Rounds x^T or x: element (r, c) of the output is x[r * row_stride + c * column_stride].
template <class Real>
void quantize(const Fp8Matrix& out, const Real* x, std::int64_t row_stride, std::int64_t column_stride) {
  const std::int64_t R = out.rows, C = out.columns, stride = out.values.dim(1);
  const std::int64_t height = out.blocks == Fp8Blocks::row ? 1 : kFp8Block;
  std::uint8_t* values = out.values.as<std::uint8_t>();
  float* scales = out.scales.as<float>();
#pragma omp parallel for
  for (std::int64_t first_row = 0; first_row < R; first_row += height)
    for (std::int64_t first_column = 0; first_column < C; first_column += kFp8Block) {
      const std::int64_t end_row = std::min(first_row + height, R), end_column = std::min(first_column + kFp8Block, C);
      const auto element = [&](std::int64_t r, std::int64_t c) {
        return static_cast<float>(x[r * row_stride + c * column_stride]);
      };
      std::uint32_t largest = 0;
      for (std::int64_t r = first_row; r < end_row; ++r)
        for (std::int64_t c = first_column; c < end_column; ++c)
          largest = std::max(largest, magnitude_bits(element(r, c)));
      const Fp8Scale scale(largest);
      scales[fp8_scale_index(out, first_row, first_column)] = scale.scale;
      for (std::int64_t r = first_row; r < end_row; ++r)
        for (std::int64_t c = first_column; c < end_column; ++c)
          values[r * stride + c] = float8_e4m3(element(r, c) * scale.inverse).bits;
    }
  for (std::int64_t r = 0; r < R; ++r) std::fill(values + r * stride + C, values + (r + 1) * stride, std::uint8_t{0});
}

}  // namespace

void quantize_fp8(Stream&, const QuantizeFp8& p) {
  dispatch_real(p.x, [&]<class Real>() {
    const std::int64_t stride = p.x.dim(1);
    if (p.plain) quantize(p.plain, p.x.as<Real>(), stride, 1);
    if (p.transposed) quantize(p.transposed, p.x.as<Real>(), 1, stride);
  });
}

}  // namespace ssa::cpu
