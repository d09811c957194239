// Test cases of rmsnorm.
#pragma once

#include "kernels/rmsnorm/rmsnorm.h"
#include "support/op_runner.h"

namespace ssa::test {

struct RmsNormCase {
  std::int64_t M, H;
  bool delta;
};

/// One token, one column, odd sizes, a hidden_size that is no power of 2, the ssa-1b and 300M widths.
inline const std::vector<RmsNormCase> kRmsNormCases = {
    {1, 8, false}, {1, 1, true}, {3, 17, true}, {7, 64, true}, {33, 200, false}, {5, 2048, true}, {130, 1024, true}};

struct RmsNormInputs {
  Values x, delta, weight, d_out, d_residual, d_weight;

  explicit RmsNormInputs(const RmsNormCase& c)
      : x(random_values(c.M * c.H, 1)),
        delta(random_values(c.M * c.H, 2, 0.5)),
        weight(random_values(c.H, 3)),
        d_out(loss_weights(c.M * c.H)),
        d_residual(random_values(c.M * c.H, 4)),
        d_weight(random_values(c.H, 5)) {}
};

inline Outputs run_rmsnorm_forward(OpRunner& run, const RmsNormCase& c, const RmsNormInputs& in) {
  const Tensor out = run.act_output({c.M, c.H}), rstd = run.f32_output({c.M});
  const Tensor residual = c.delta ? run.act_output({c.M, c.H}) : Tensor();
  rmsnorm_forward(run.stream(), {.out = out,
                                 .rstd = rstd,
                                 .residual = residual,
                                 .x = run.act_input(in.x, {c.M, c.H}),
                                 .delta = c.delta ? run.act_input(in.delta, {c.M, c.H}) : Tensor(),
                                 .weight = run.act_input(in.weight, {c.H}),
                                 .eps = 1e-5f});
  Outputs outputs = {{"out", run.read(out)}, {"rstd", run.read(rstd)}};
  if (c.delta) outputs.push_back({"residual", run.read(residual)});
  return outputs;
}

/// Backward with residual = x; `rstd` as the forward returned it for that x.
inline Outputs run_rmsnorm_backward(OpRunner& run, const RmsNormCase& c, const RmsNormInputs& in, const Values& rstd) {
  const Tensor d_residual = run.act_input(in.d_residual, {c.M, c.H}), d_weight = run.f32_input(in.d_weight, {c.H});
  rmsnorm_backward(run.stream(), {.d_residual = d_residual,
                                  .d_weight = d_weight,
                                  .d_out = run.act_input(in.d_out, {c.M, c.H}),
                                  .residual = run.act_input(in.x, {c.M, c.H}),
                                  .rstd = run.f32_input(rstd, {c.M}),
                                  .weight = run.act_input(in.weight, {c.H})});
  return {{"d_residual", run.read(d_residual)}, {"d_weight", run.read(d_weight)}};
}

}  // namespace ssa::test
