// Test cases of matmul.
#pragma once

#include "kernels/matmul/matmul.h"
#include "support/padded_rows.h"

namespace ssa::test {

struct MatmulShape {
  std::int64_t M, N, K;
};
struct MatmulMode {
  bool transpose_a, transpose_b, accumulate, out_f32;
  bool padded = false;  ///< rows of a and out, with NaN
};

/// One element, one row, one column, one term, odd sizes, the tiny and ssa-1b widths (qkvg projection, odd vocabulary),
/// a long sum; then few rows whose lengths are multiples of 8, with and without a rest of the kernel's steps.
inline const std::vector<MatmulShape> kMatmulShapes = {
    {1, 1, 1},       {1, 64, 64},     {7, 1, 5},       {3, 5, 1},      {13, 17, 19}, {33, 65, 130},
    {128, 257, 128}, {1, 2240, 2048}, {3, 1003, 2048}, {130, 9, 4099}, {1, 3, 8},    {2, 33, 264},
    {4, 7, 1024},    {5, 2, 40},      {7, 12, 2056},   {8, 129, 1288}, {9, 16, 64}};

inline std::vector<MatmulMode> matmul_modes() {
  std::vector<MatmulMode> modes;
  for (int bits = 0; bits < 32; ++bits)
    modes.push_back({(bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0, (bits & 8) != 0, (bits & 16) != 0});
  return modes;
}

struct MatmulInputs {
  Values a, b, out;

  explicit MatmulInputs(const MatmulShape& c)
      : a(random_values(c.M * c.K, 1)), b(random_values(c.K * c.N, 2)), out(random_values(c.M * c.N, 3)) {}
};

inline Outputs run_matmul(OpRunner& run, const MatmulShape& c, const MatmulMode& mode, const MatmulInputs& in) {
  const PaddedRows out_rows(c.M, c.N, mode.padded);
  const PaddedRows a_rows(mode.transpose_a ? c.K : c.M, mode.transpose_a ? c.M : c.K, mode.padded);
  const Shape shape = out_rows.shape();
  const Values before = out_rows.pad(in.out);
  const Tensor out = mode.accumulate ? mode.out_f32 ? run.f32_input(before, shape) : run.act_input(before, shape)
                     : mode.out_f32 ? run.f32_output(shape)
                                     : run.act_output(shape);
  matmul(run.stream(), {.out = out,
                        .a = run.act_input(a_rows.pad(in.a), a_rows.shape()),
                        .b = run.act_input(in.b, mode.transpose_b ? Shape{c.N, c.K} : Shape{c.K, c.N}),
                        .transpose_a = mode.transpose_a,
                        .transpose_b = mode.transpose_b,
                        .accumulate = mode.accumulate});
  return {{"out", out_rows.unpad(run.read(out))}};
}

}  // namespace ssa::test
