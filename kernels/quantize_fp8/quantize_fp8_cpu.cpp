#include <algorithm>
#include <bit>
#include <cmath>
#include <type_traits>

#include "kernels/common/cpu/cpu.h"
#include "quantize_fp8.h"

namespace ssa::cpu {
namespace {

/// Rounds x^T or x: element (r, c) of the output is x[r * row_stride + c * column_stride].
template <class Real>
void quantize(const Fp8Matrix& out, const Real* x, std::int64_t row_stride, std::int64_t column_stride) {
  const std::int64_t R = out.values.dim(0), C = out.values.dim(1);
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
      // As bits, NaN is larger than every number.
      auto largest = std::bit_cast<std::uint32_t>(0x1p-110f);
      for (std::int64_t r = first_row; r < end_row; ++r)
        for (std::int64_t c = first_column; c < end_column; ++c)
          largest = std::max(largest, std::bit_cast<std::uint32_t>(element(r, c)) & 0x7fffffffu);
      const auto amax = std::bit_cast<float>(largest);
      const float inverse = float8_e4m3::kMax / amax;
      scales[fp8_scale_index(out, first_row, first_column)] = amax / float8_e4m3::kMax;
      for (std::int64_t r = first_row; r < end_row; ++r)
        for (std::int64_t c = first_column; c < end_column; ++c)
          values[r * C + c] = float8_e4m3(element(r, c) * inverse).bits;
    }
}

}  // namespace

void quantize_fp8(Stream&, const QuantizeFp8& p) {
  dispatch_real(p.x, [&]<class Real>() {
    const std::int64_t C = p.x.dim(1);
    if (p.plain) quantize(p.plain, p.x.as<Real>(), C, 1);
    if (p.transposed) quantize(p.transposed, p.x.as<Real>(), 1, C);
  });
}

}  // namespace ssa::cpu
