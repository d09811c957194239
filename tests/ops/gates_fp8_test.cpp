#include "ops/fp8_cases.h"
#include "ops/gate_alignment_cases.h"
#include "ops/gated_sum_cases.h"

using namespace ssa;
using namespace ssa::test;

namespace {

/// The gated output in FP8, written by the op itself and made by quantize_fp8 of the op's output.
struct Written {
  Fp8Matrix fp8, fp8_t;

  Written(OpRunner& run, std::int64_t M, std::int64_t columns)
      : fp8(fp8_output(run, M, columns, Fp8Blocks::row)), fp8_t(fp8_output(run, columns, M, Fp8Blocks::row)) {}

  std::vector<Values> read(OpRunner& run) const {
    return {read_values(run, fp8), used_scales(run, fp8), read_values(run, fp8_t), used_scales(run, fp8_t)};
  }
};

/// Less than a tile, cut tiles, heads of 64 and 128; one to three branches.
void check_gated_sum(Precision precision) {
  for (const GatedSumCase& c : std::vector<GatedSumCase>{{2, 8, 2, 8, false, false},
                                                         {2, 72, 6, 32, true, false},
                                                         {1, 256, 4, 64, true, true},
                                                         {3, 48, 3, 128, false, true}}) {
    CAPTURE(c.B, c.T, c.HQ, c.D);
    const GatedSumInputs in(c);
    OpRunner run(precision);
    const std::int64_t M = c.B * c.T, columns = c.HQ * c.D;
    const Shape shape{c.B, c.T, c.HQ, c.D};
    const Written written(run, M, columns), rounded(run, M, columns);
    const Tensor out = run.act_output(shape);
    GatedSumForward op{.out = out,
                       .gates = run.f32_input(in.gates, {c.B, c.T, c.HQ, 3}),
                       .selected = run.act_input(in.selected, shape),
                       .compressed = c.compressed ? run.act_input(in.compressed, shape) : Tensor(),
                       .window = c.window ? run.act_input(in.window, shape) : Tensor()};
    gated_sum_forward(run.stream(), op);
    quantize_fp8(run.stream(), {.plain = rounded.fp8, .transposed = rounded.fp8_t, .x = out.view({M, columns})});
    op.out = {};
    op.fp8 = written.fp8;
    op.fp8_t = written.fp8_t;
    gated_sum_forward(run.stream(), op);
    CHECK((written.read(run) == rounded.read(run)));
  }
}

void check_gate_alignment(Precision precision) {
  for (const GateAlignmentCase& c : std::vector<GateAlignmentCase>{{{1, 0}, 8, 2, 8, 0.5, 5, 5},
                                                                   {{0, 1, 1}, 48, 3, 128, 0.01, 0.1f, 0.1f},
                                                                   {{0, 1}, 72, 6, 32, 1e-3, 1e-2f, 1e-2f},
                                                                   {{1}, 256, 4, 64, 0.25, 2.5f, 2.5f}}) {
    CAPTURE(c.B(), c.T, c.HQ, c.D);
    const GateAlignmentInputs in(c);
    OpRunner run(precision);
    const std::int64_t M = c.B() * c.T, columns = c.HQ * c.D;
    const Shape shape{c.B(), c.T, c.HQ, c.D};
    const Written written(run, M, columns), rounded(run, M, columns);
    const Tensor out = run.act_output(shape), plain = run.f64_input({in.alignment}, {1});
    const Tensor alignment = run.f64_input({in.alignment}, {1});
    GateAlignmentForward op{.out = out,
                            .alignment = plain,
                            .gates = run.f32_input(in.gates, {c.B(), c.T, c.HQ, 3}),
                            .full = run.act_input(in.full, shape),
                            .sparse = run.act_input(in.sparse, shape),
                            .full_stream = run.i32_input(c.full_stream, {c.B()}),
                            .alignment_scale = c.alignment_scale};
    gate_alignment_forward(run.stream(), op);
    quantize_fp8(run.stream(), {.plain = rounded.fp8, .transposed = rounded.fp8_t, .x = out.view({M, columns})});
    op.out = {};
    op.fp8 = written.fp8;
    op.fp8_t = written.fp8_t;
    op.alignment = alignment;
    gate_alignment_forward(run.stream(), op);
    CHECK((written.read(run) == rounded.read(run)));
    // The terms of a CTA are added in f32 in another order.
    CHECK(run.read(alignment)[0] == Approx(run.read(plain)[0]).epsilon(1e-5));
  }
}

}  // namespace

TEST_CASE("gated_sum and gate_alignment write the FP8 that quantize_fp8 makes of their output, to the bit") {
  check_gated_sum(Precision::f32);
  check_gate_alignment(Precision::f32);
}

TEST_CASE("gated_sum and gate_alignment on CUDA write the FP8 that quantize_fp8 makes of their output, to the bit") {
  if (skip_without_gpu()) return;
  check_gated_sum(Precision::cuda);
  check_gate_alignment(Precision::cuda);
}

TEST_CASE("gated_sum and gate_alignment refuse FP8 outputs that do not fit") {
  OpRunner run(Precision::f32);
  const Shape shape{1, 16, 4, 8};
  const Tensor gates = run.f32_output({1, 16, 4, 3}), x = run.act_output(shape);
  const Fp8Matrix fp8 = fp8_output(run, 16, 32, Fp8Blocks::row), fp8_t = fp8_output(run, 32, 16, Fp8Blocks::row);
  CHECK_THROWS_WITH(gated_sum_forward(run.stream(), {.gates = gates, .selected = x}),
                    "gated_sum_forward: out is missing, expected [1, 16, 4, 8]");
  CHECK_THROWS_WITH(
      gated_sum_forward(run.stream(), {.out = x, .fp8 = fp8, .fp8_t = fp8_t, .gates = gates, .selected = x}),
      "gated_sum_forward: out and fp8 are given, expected one of them");
  CHECK_THROWS_WITH(gated_sum_forward(run.stream(), {.fp8 = fp8, .gates = gates, .selected = x}),
                    "gated_sum_forward: fp8_t is missing, expected [32, 16]");
  CHECK_THROWS_WITH(gated_sum_forward(run.stream(), {.fp8 = fp8,
                                                     .fp8_t = fp8_t,
                                                     .gates = run.f32_output({1, 16, 8, 3}),
                                                     .selected = run.act_output({1, 16, 8, 4})}),
                    "gated_sum_forward: D is 4, expected a multiple of 8 with FP8");
  CHECK_THROWS_WITH(gate_alignment_forward(run.stream(), {.fp8 = fp8,
                                                          .fp8_t = fp8,
                                                          .alignment = run.f64_input({0}, {1}),
                                                          .gates = gates,
                                                          .full = x,
                                                          .sparse = x,
                                                          .full_stream = run.i32_output({1}),
                                                          .alignment_scale = 1}),
                    "gate_alignment_forward: fp8_t is [16, 32], expected [32, 16]");
}
