#include "swiglu.h"

#include "kernels/common/check.h"
#include "kernels/quantize_fp8/check_fp8.h"

namespace ssa {
namespace {

/// A block of 128 columns may not have columns of gate and of up.
void expect_whole_blocks(const char* op, std::int64_t F) {
  SSA_CHECK(F % kFp8Block == 0, op, ": F is ", F, ", expected a multiple of ", kFp8Block, " with FP8");
}

}  // namespace

void validate(const SwigluForward& p) {
  constexpr auto op = "swiglu_forward";
  expect_rank(op, "gate_up", p.gate_up, 2, "[M, 2 F]");
  if (p.out) expect_rank(op, "out", p.out, 2, "[M, F]");
  const std::int64_t M = p.gate_up.dim(0), F = p.out ? p.out.dim(1) : p.gate_up.dim(1) / 2;
  expect(op, "gate_up", p.gate_up, {M, 2 * F}, p.gate_up.dtype());
  expect_if_given(op, "out", p.out, {M, F}, p.gate_up.dtype());
  SSA_CHECK(p.out || p.fp8 || p.fp8_t, op, ": no output");
  if (!p.fp8 && !p.fp8_t) return;
  expect_whole_blocks(op, F);
  if (p.fp8) expect_whole_fp8(op, "fp8", p.fp8, M, F);
  if (p.fp8_t) expect_whole_fp8(op, "fp8_t", p.fp8_t, F, M);
}

void validate(const SwigluBackward& p) {
  constexpr auto op = "swiglu_backward";
  expect_rank(op, "d_out", p.d_out, 2, "[M, F]");
  const std::int64_t M = p.d_out.dim(0), F = p.d_out.dim(1);
  const DType act = p.d_out.dtype();
  expect(op, "gate_up", p.gate_up, {M, 2 * F}, act);
  SSA_CHECK(p.d_gate_up.count() == 0 || !p.fp8, op, ": d_gate_up and fp8 are given, expected one of them");
  if (p.fp8 || p.fp8_t) {
    expect_whole_blocks(op, F);
    expect_whole_fp8(op, "fp8", p.fp8, M, 2 * F);
    expect_whole_fp8(op, "fp8_t", p.fp8_t, 2 * F, M);
    SSA_CHECK(p.fp8.blocks == Fp8Blocks::row && p.fp8_t.blocks == Fp8Blocks::square, op,
              ": fp8 and fp8_t have other blocks, expected row blocks and square blocks");
  } else {
    expect(op, "d_gate_up", p.d_gate_up, {M, 2 * F}, act);
  }
  expect_if_given(op, "out", p.out, {M, F}, act);
}

}  // namespace ssa
