#include "gate_alignment.h"

#include "kernels/attention/gates/check_gated_output.h"
#include "kernels/common/check.h"

namespace ssa {

void validate(const GateAlignmentForward& p) {
  constexpr auto op = "gate_alignment_forward";
  expect_rank(op, "full", p.full, 4, "[B, T, HQ, D]");
  const Shape heads = p.full.shape();
  const DType act = p.full.dtype();
  expect_gated_output(op, p.out, p.fp8, p.fp8_t, heads, act);
  expect(op, "alignment", p.alignment, {1}, DType::f64);
  expect(op, "gates", p.gates, {heads[0], heads[1], heads[2], 3}, real_of(act));
  expect(op, "sparse", p.sparse, heads, act);
  expect(op, "full_stream", p.full_stream, {heads[0]}, DType::i32);
}

void validate(const GateAlignmentBackward& p) {
  constexpr auto op = "gate_alignment_backward";
  expect_rank(op, "d_out", p.d_out, 4, "[B, T, HQ, D]");
  const Shape heads = p.d_out.shape(), gates{heads[0], heads[1], heads[2], 3}, deltas{heads[0], heads[1], heads[2]};
  const DType act = p.d_out.dtype(), real = real_of(act);
  expect(op, "d_gates", p.d_gates, gates, real);
  expect(op, "d_full", p.d_full, heads, act);
  expect(op, "delta_full", p.delta_full, deltas, real);
  expect(op, "d_sparse", p.d_sparse, heads, act);
  expect(op, "delta_sparse", p.delta_sparse, deltas, real);
  expect(op, "gates", p.gates, gates, real);
  expect(op, "full", p.full, heads, act);
  expect(op, "sparse", p.sparse, heads, act);
  expect(op, "full_stream", p.full_stream, {heads[0]}, DType::i32);
}

/// One partial sum of the alignment per CTA.
std::size_t cuda::scratch_bytes(const GateAlignmentForward& p) {
  const Shape& shape = p.full.shape();
  const std::int64_t B = shape[0], heads = shape[1] * shape[2];
  const std::int64_t ctas = p.fp8 ? fp8_blocks_of(B * shape[1]) * fp8_blocks_of(shape[2] * shape[3])
                                  : B * ((heads + kGateAlignmentHeadsPerCta - 1) / kGateAlignmentHeadsPerCta);
  return static_cast<std::size_t>(ctas) * sizeof(float);
}

}  // namespace ssa
