#include "swiglu.h"

#include "kernels/common/check.h"

namespace ssa {

void validate(const SwigluForward& p) {
  constexpr auto op = "swiglu_forward";
  expect_rank(op, "out", p.out, 2, "[M, F]");
  const std::int64_t M = p.out.dim(0), F = p.out.dim(1);
  expect(op, "gate_up", p.gate_up, {M, 2 * F}, p.out.dtype());
}

void validate(const SwigluBackward& p) {
  constexpr auto op = "swiglu_backward";
  expect_rank(op, "d_out", p.d_out, 2, "[M, F]");
  const std::int64_t M = p.d_out.dim(0), F = p.d_out.dim(1);
  const DType act = p.d_out.dtype();
  expect(op, "gate_up", p.gate_up, {M, 2 * F}, act);
  expect(op, "d_gate_up", p.d_gate_up, {M, 2 * F}, act);
  expect_if_given(op, "out", p.out, {M, F}, act);
}

}  // namespace ssa
