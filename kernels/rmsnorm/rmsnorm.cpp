#include "rmsnorm.h"

#include <algorithm>

#include "kernels/common/check.h"
#include "kernels/quantize_fp8/check_fp8.h"

namespace ssa {

void validate(const RmsNormForward& p) {
  constexpr auto op = "rmsnorm_forward";
  expect_rank(op, "x", p.x, 2, "[M, H]");
  const std::int64_t M = p.x.dim(0), H = p.x.dim(1);
  const DType act = p.x.dtype();
  if (p.fp8_t)
    expect_if_given(op, "out", p.out, {M, H}, act);
  else
    expect(op, "out", p.out, {M, H}, act);
  expect(op, "rstd", p.rstd, {M}, real_of(act));
  expect(op, "weight", p.weight, {H}, act);
  expect_if_given(op, "delta", p.delta, {M, H}, act);
  expect_if_given(op, "residual", p.residual, {M, H}, act);
  SSA_CHECK(static_cast<bool>(p.delta) == static_cast<bool>(p.residual), op, ": delta and residual come together");
  if (!p.fp8 && !p.fp8_t) return;
  SSA_CHECK(H % kFp8Block == 0 && p.fp8.blocks == Fp8Blocks::row, op, ": H is ", H,
            ", expected a multiple of 128 with FP8, and row blocks");
  expect_whole_fp8(op, "fp8", p.fp8, M, H);
  if (p.fp8_t) expect_whole_fp8(op, "fp8_t", p.fp8_t, H, M);
}

void validate(const RmsNormBackward& p) {
  constexpr auto op = "rmsnorm_backward";
  expect_rank(op, "d_out", p.d_out, 2, "[M, H]");
  const std::int64_t M = p.d_out.dim(0), H = p.d_out.dim(1);
  const DType act = p.d_out.dtype();
  expect(op, "d_residual", p.d_residual, {M, H}, act);
  expect(op, "d_weight", p.d_weight, {H}, real_of(act));
  expect(op, "residual", p.residual, {M, H}, act);
  expect(op, "rstd", p.rstd, {M}, real_of(act));
  expect(op, "weight", p.weight, {H}, act);
  if (!p.fp8 && !p.fp8_t) return;
  expect_whole_fp8(op, "fp8", p.fp8, M, H);
  expect_whole_fp8(op, "fp8_t", p.fp8_t, H, M);
  SSA_CHECK(p.fp8.blocks == Fp8Blocks::row && p.fp8_t.blocks == Fp8Blocks::square, op,
            ": fp8 and fp8_t have other blocks, expected row blocks and square blocks");
}

/// One partial d_weight per CTA, or, where the CUDA backward writes FP8, per block of tokens.
std::size_t cuda::scratch_bytes(const RmsNormBackward& p) {
  const std::int64_t blocks = p.fp8 ? fp8_blocks_of(p.d_out.dim(0)) : 0;
  return static_cast<std::size_t>(std::max(kRmsNormMaxPartials, blocks) * p.d_out.dim(1)) * sizeof(float);
}

}  // namespace ssa
