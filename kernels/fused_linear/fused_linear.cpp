#include "fused_linear.h"

#include "kernels/common/check.h"

namespace ssa {

void validate(const FusedLinear& p) {
  constexpr auto op = "fused_linear";
  expect_rank(op, "x", p.x, 2, "[M, K]");
  expect_rank(op, "w", p.w, 2, "[N, K]");
  const std::int64_t M = p.x.dim(0), K = p.x.dim(1), N = p.w.dim(0);
  const DType act = p.x.dtype();
  SSA_CHECK(!p.swiglu || !p.residual, op, ": both swiglu and residual, expected at most one of them");
  SSA_CHECK(!p.swiglu || N % 2 == 0, op, ": w has ", N, " rows, expected an even number with swiglu");
  expect(op, "w", p.w, {N, K}, act);
  const bool real_out = !p.swiglu && !p.residual && p.out.dtype() != act;
  expect(op, "out", p.out, {M, p.swiglu ? N / 2 : N}, real_out ? real_of(act) : act);
  expect_if_given(op, "norm_weight", p.norm_weight, {K}, act);
  expect_if_given(op, "residual", p.residual, {M, N}, act);
}

#if !SSA_WITH_CUDA  // only the CUDA sources know its layout
std::size_t cuda::scratch_bytes(const FusedLinear&) { return 0; }
#endif

}  // namespace ssa
