// The check of the output of gated_sum_forward and gate_alignment_forward: in act, or in FP8 plain and transposed.
#pragma once

#include "kernels/common/check.h"
#include "kernels/quantize_fp8/check_fp8.h"

namespace ssa {

/// `heads` is [B, T, HQ, D].
inline void expect_gated_output(const char* op, const Tensor& out, const Fp8Matrix& fp8, const Fp8Matrix& fp8_t,
                                const Shape& heads, DType act) {
  if (!fp8 && !fp8_t) return expect(op, "out", out, heads, act);
  SSA_CHECK(!out, op, ": out and fp8 are given, expected one of them");
  SSA_CHECK(heads[3] % 8 == 0, op, ": D is ", heads[3], ", expected a multiple of 8 with FP8");
  const std::int64_t M = heads[0] * heads[1], columns = heads[2] * heads[3];
  expect_whole_fp8(op, "fp8", fp8, M, columns);
  expect_whole_fp8(op, "fp8_t", fp8_t, columns, M);
}

}  // namespace ssa
