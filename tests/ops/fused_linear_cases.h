// Test cases of fused_linear.
#pragma once

#include "kernels/fused_linear/fused_linear.h"
#include "support/op_runner.h"

namespace ssa::test {

struct FusedLinearCase {
  std::int64_t M, N, K;
  bool norm = false, swiglu = false, residual = false, out_f32 = false;

  Shape out_shape() const { return {M, swiglu ? N / 2 : N}; }
  std::string to_string() const {
    return concat("M ", M, " N ", N, " K ", K, norm ? " norm" : "", swiglu ? " swiglu" : "",
                  residual ? " residual" : "", out_f32 ? " f32" : "");
  }
};

/// Small and odd sizes first. Then those of the kernel of few rows: one row, a partial last tile of columns, rows that
/// are not a power of two, more rows than the kernel normalizes or keeps in shared memory, rows of several rounds of
/// loads, more rows than a launch takes, and more than the kernel takes.
inline const std::vector<FusedLinearCase> kFusedLinearCases = {{1, 1, 1},
                                                               {3, 6, 5, true, true},
                                                               {2, 7, 9, true, false, true},
                                                               {1, 32, 64, true},
                                                               {1, 2240, 2048, true},
                                                               {1, 2048, 2048, false, false, true},
                                                               {1, 512, 2048, true, true},
                                                               {1, 100, 8192, false, false, true},
                                                               {1, 1003, 2048, true, false, false, true},
                                                               {2, 42, 264, true, true},
                                                               {3, 17, 2056, true, false, true},
                                                               {4, 130, 2048, true, true},
                                                               {5, 40, 8192, true},
                                                               {8, 18, 1024, true, false, true},
                                                               {8, 34, 1288, true, true},
                                                               {9, 33, 40, true, false, false, true},
                                                               {11, 26, 2048, false, true},
                                                               {16, 48, 2048, true, true},
                                                               {16, 31, 8192, false, false, true},
                                                               {21, 50, 136, true, true},
                                                               {32, 19, 2048, true, false, true},
                                                               {33, 64, 128, true, true},
                                                               {40, 24, 64, true, false, true}};

struct FusedLinearInputs {
  Values x, norm_weight, w, residual;

  explicit FusedLinearInputs(const FusedLinearCase& c)
      : x(random_values(c.M * c.K, 1)),
        norm_weight(random_values(c.K, 2)),
        w(random_values(c.N * c.K, 3, 1 / std::sqrt(static_cast<double>(c.K)))),
        residual(random_values(c.M * c.N, 4)) {}
};

/// With a residual, the output is where it is.
inline Outputs run_fused_linear(OpRunner& run, const FusedLinearCase& c, const FusedLinearInputs& in) {
  const Tensor residual = c.residual ? run.act_input(in.residual, c.out_shape()) : Tensor();
  const Tensor out = c.residual ? residual : c.out_f32 ? run.f32_output(c.out_shape()) : run.act_output(c.out_shape());
  const Tensor w = run.act_input(in.w, {c.N, c.K});
  const FusedLinear p{.out = out,
                      .x = run.act_input(in.x, {c.M, c.K}),
                      .norm_weight = c.norm ? run.act_input(in.norm_weight, {c.K}) : Tensor(),
                      .eps = 1e-5f,
                      .w = w,
                      .swiglu = c.swiglu,
                      .residual = residual,
                      .read_later = {{w}}};
  Stream measure = Stream::measuring(run.stream().kind());
  fused_linear(measure, p);
  run.stream().reserve_scratch(measure.scratch_bytes());
  fused_linear(run.stream(), p);
  return {{"out", run.read(out)}};
}

}  // namespace ssa::test
