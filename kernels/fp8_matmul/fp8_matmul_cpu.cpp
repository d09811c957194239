#include <type_traits>
#include <vector>

#include "fp8_matmul.h"
#include "kernels/common/cpu/cpu.h"
#include "kernels/matmul/matmul.h"

namespace ssa::cpu {
namespace {

template <class Real>
std::vector<Real> dequantize(const Fp8Matrix& m) {
  const std::int64_t R = m.rows, C = m.columns, stride = m.values.dim(1);
  // A code is one byte, and so is its struct.
  const auto* values = reinterpret_cast<const float8_e4m3*>(m.values.as<std::uint8_t>());
  const float* scales = m.scales.as<float>();
  std::vector<Real> x(static_cast<std::size_t>(R * C));
  Real* out = x.data();
#pragma omp parallel for
  for (std::int64_t r = 0; r < R; ++r)
    for (std::int64_t c = 0; c < C; ++c)
      out[r * C + c] = static_cast<Real>(static_cast<float>(values[r * stride + c])) *
                       static_cast<Real>(scales[fp8_scale_index(m, r, c)]);
  return x;
}

}  // namespace

void fp8_matmul(Stream& stream, const Fp8Matmul& p) {
  dispatch_real(p.out, [&]<class Real>() {
    std::vector<Real> a = dequantize<Real>(p.a), b = dequantize<Real>(p.b);
    cpu::matmul(stream, {.out = p.out,
                         .a = Tensor(a.data(), kDTypeOf<Real>, {p.a.rows, p.a.columns}),
                         .b = Tensor(b.data(), kDTypeOf<Real>, {p.b.rows, p.b.columns}),
                         .transpose_b = true,
                         .accumulate = p.accumulate});
  });
}

}  // namespace ssa::cpu
