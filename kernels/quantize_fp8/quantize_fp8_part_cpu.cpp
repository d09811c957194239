#include <algorithm>

#include "kernels/common/cpu/cpu.h"
#include "kernels/quantize_fp8/fp8_scale_cpu.h"
#include "quantize_fp8_part.h"

namespace ssa::cpu {

void fp8_part_maxima(Stream&, const Fp8PartMaxima& p) {
  dispatch_real(p.x, [&]<class Real>() {
    const Real* x = p.x.as<Real>();
    const std::int64_t n = p.x.count(), R = p.rows, C = p.columns, stride = p.maxima.dim(1);
    std::int32_t* maxima = p.maxima.as<std::int32_t>();
#pragma omp parallel for
    for (std::int64_t block_row = 0; block_row < fp8_blocks_of(R); ++block_row) {
      std::int32_t* of_row = maxima + block_row * stride;
      std::fill(of_row, of_row + fp8_blocks_of(C), 0);
      const std::int64_t begin = std::max(block_row * kFp8Block * C, p.first);
      const std::int64_t end = std::min(std::min((block_row + 1) * kFp8Block, R) * C, p.first + n);
      for (std::int64_t at = begin; at < end; ++at) {
        std::int32_t& largest = of_row[at % C / kFp8Block];
        largest = std::max(largest, static_cast<std::int32_t>(magnitude_bits(static_cast<float>(x[at - p.first]))));
      }
    }
  });
}

void quantize_fp8_part(Stream&, const QuantizeFp8Part& p) {
  dispatch_real(p.x, [&]<class Real>() {
    const Real* x = p.x.as<Real>();
    const std::int64_t n = p.x.count(), C = p.out.columns, blocks = p.maxima.count(), stride = p.maxima.dim(1);
    const auto* maxima = p.maxima.as<std::int32_t>();
    std::uint8_t* values = p.out.values.as<std::uint8_t>();
    float* scales = p.out.scales.as<float>();
    const auto scale_of = [&](std::int64_t block) { return Fp8Scale(static_cast<std::uint32_t>(maxima[block])); };
    for (std::int64_t block = 0; block < blocks; ++block)
      if (block % stride < fp8_blocks_of(C)) scales[block] = scale_of(block).scale;
#pragma omp parallel for
    for (std::int64_t i = 0; i < n; i += kFp8Alignment) {  // of one block: columns and `first` are multiples of 16
      const std::int64_t at = p.first + i;
      const float inverse = scale_of(fp8_scale_index(p.out, at / C, at % C)).inverse;
      for (std::int64_t j = 0; j < kFp8Alignment; ++j)
        values[at + j] = float8_e4m3(static_cast<float>(x[i + j]) * inverse).bits;
    }
  });
}

void transpose_fp8(Stream&, const TransposeFp8& p) {
  const std::int64_t R = p.x.rows, C = p.x.columns, from_stride = p.x.values.dim(1), stride = p.out.values.dim(1);
  const auto* from = p.x.values.as<std::uint8_t>();
  auto* to = p.out.values.as<std::uint8_t>();
#pragma omp parallel for
  for (std::int64_t c = 0; c < C; ++c) {
    for (std::int64_t r = 0; r < R; ++r) to[c * stride + r] = from[r * from_stride + c];
    std::fill(to + c * stride + R, to + (c + 1) * stride, std::uint8_t{0});
  }
  for (std::int64_t r = 0; r < R; r += kFp8Block)
    for (std::int64_t c = 0; c < C; c += kFp8Block)
      p.out.scales.as<float>()[fp8_scale_index(p.out, c, r)] = p.x.scales.as<float>()[fp8_scale_index(p.x, r, c)];
}

}  // namespace ssa::cpu
