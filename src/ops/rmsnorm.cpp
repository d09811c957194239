#include "ssa/ops/rmsnorm.h"

#include "check.h"

namespace ssa {

void validate(const RmsNormForward& p) {
  constexpr auto op = "rmsnorm_forward";
  SSA_CHECK(p.x.shape().rank() == 2, op, ": x is ", p.x.shape().to_string(), ", expected [M, H]");
  const std::int64_t M = p.x.dim(0), H = p.x.dim(1);
  const DType act = p.x.dtype();
  expect(op, "out", p.out, {M, H}, act);
  expect(op, "rstd", p.rstd, {M}, real_of(act));
  expect(op, "weight", p.weight, {H}, act);
  expect_if_given(op, "delta", p.delta, {M, H}, act);
  expect_if_given(op, "residual", p.residual, {M, H}, act);
  SSA_CHECK(static_cast<bool>(p.delta) == static_cast<bool>(p.residual), op, ": delta and residual come together");
}

void validate(const RmsNormBackward& p) {
  constexpr auto op = "rmsnorm_backward";
  SSA_CHECK(p.d_out.shape().rank() == 2, op, ": d_out is ", p.d_out.shape().to_string(), ", expected [M, H]");
  const std::int64_t M = p.d_out.dim(0), H = p.d_out.dim(1);
  const DType act = p.d_out.dtype();
  expect(op, "d_residual", p.d_residual, {M, H}, act);
  expect(op, "d_weight", p.d_weight, {H}, real_of(act));
  expect(op, "residual", p.residual, {M, H}, act);
  expect(op, "rstd", p.rstd, {M}, real_of(act));
  expect(op, "weight", p.weight, {H}, act);
}

}  // namespace ssa
