// Test cases of gate_alignment.
#pragma once

#include <cmath>

#include "kernels/attention/gates/gate_alignment.h"
#include "support/op_runner.h"

namespace ssa::test {

struct GateAlignmentCase {
  std::vector<std::int32_t> full_stream;  ///< one per sequence
  std::int64_t T, HQ, D;
  double alignment_scale;
  float full_scale, sparse_scale;

  std::int64_t B() const { return static_cast<std::int64_t>(full_stream.size()); }
  std::int64_t heads() const { return B() * T * HQ; }
};

/// One element, odd sizes, batches with one attention stream and with both, no alignment gradient or only that
/// of one output, the ssa-1b heads.
inline const std::vector<GateAlignmentCase> kGateAlignmentCases = {{{1}, 1, 1, 1, 1.0, 10, 10},
                                                                   {{0}, 1, 1, 7, 0.25, 2.5f, 2.5f},
                                                                   {{0, 1, 1}, 5, 3, 6, 0.01, 0.1f, 0.1f},
                                                                   {{1, 0, 1, 0}, 13, 4, 16, 0.5, 5, 5},
                                                                   {{1, 0}, 3, 32, 64, 1e-3, 1e-2f, 1e-2f},
                                                                   {{0, 1}, 2, 32, 128, 1e-3, 1e-2f, 1e-2f},
                                                                   {{1, 1}, 9, 6, 32, 1.0, 0, 0},
                                                                   {{0, 0, 1}, 33, 16, 8, 0.125, 1.25f, 1.25f},
                                                                   {{1, 0}, 5, 4, 16, 0.5, 5, 0},
                                                                   {{0, 1}, 5, 4, 16, 0.5, 0, 5}};

/// |g_slc (full - sparse)| is within [0.1, 0.8] or [1.2, 3], so that both branches of SmoothL1 occur and no
/// finite difference crosses the boundary between them.
struct GateAlignmentInputs {
  Values gates, full, sparse, d_out;
  double alignment = 0.75;

  explicit GateAlignmentInputs(const GateAlignmentCase& c)
      : gates(random_values(c.heads() * 3, 1)),
        full(static_cast<std::size_t>(c.heads() * c.D)),
        sparse(random_values(c.heads() * c.D, 2)),
        d_out(loss_weights(c.heads() * c.D)) {
    for (double& g : gates) g = 1 / (1 + std::exp(-g));
    const Values which = random_values(c.heads() * c.D, 3);
    for (std::size_t i = 0; i < full.size(); ++i) {
      const double at = std::tanh(std::abs(which[i]));  // in [0, 1)
      const double distance = i % 2 == 0 ? 0.1 + 0.7 * at : 1.2 + 1.8 * at;
      full[i] = sparse[i] + std::copysign(distance, which[i]) / gates[i / static_cast<std::size_t>(c.D) * 3 + 1];
    }
  }
};

inline Outputs run_gate_alignment_forward(OpRunner& run, const GateAlignmentCase& c, const GateAlignmentInputs& in) {
  const Shape shape{c.B(), c.T, c.HQ, c.D};
  const Tensor out = run.act_output(shape), alignment = run.f64_input({in.alignment}, {1});
  gate_alignment_forward(run.stream(), {.out = out,
                                        .alignment = alignment,
                                        .gates = run.f32_input(in.gates, {c.B(), c.T, c.HQ, 3}),
                                        .full = run.act_input(in.full, shape),
                                        .sparse = run.act_input(in.sparse, shape),
                                        .full_stream = run.i32_input(c.full_stream, {c.B()}),
                                        .alignment_scale = c.alignment_scale});
  return {{"out", run.read(out)}, {"alignment", run.read(alignment)}};
}

inline Outputs run_gate_alignment_backward(OpRunner& run, const GateAlignmentCase& c, const GateAlignmentInputs& in) {
  const Shape shape{c.B(), c.T, c.HQ, c.D}, delta_shape{c.B(), c.T, c.HQ}, gate_shape{c.B(), c.T, c.HQ, 3};
  const Tensor d_gates = run.f32_output(gate_shape);
  const Tensor d_full = run.act_output(shape), delta_full = run.f32_output(delta_shape);
  const Tensor d_sparse = run.act_output(shape), delta_sparse = run.f32_output(delta_shape);
  gate_alignment_backward(run.stream(), {.d_gates = d_gates,
                                         .d_full = d_full,
                                         .delta_full = delta_full,
                                         .d_sparse = d_sparse,
                                         .delta_sparse = delta_sparse,
                                         .d_out = run.act_input(in.d_out, shape),
                                         .gates = run.f32_input(in.gates, gate_shape),
                                         .full = run.act_input(in.full, shape),
                                         .sparse = run.act_input(in.sparse, shape),
                                         .full_stream = run.i32_input(c.full_stream, {c.B()}),
                                         .full_scale = c.full_scale,
                                         .sparse_scale = c.sparse_scale});
  return {{"d_gates", run.read(d_gates)},
          {"d_full", run.read(d_full)},
          {"delta_full", run.read(delta_full)},
          {"d_sparse", run.read(d_sparse)},
          {"delta_sparse", run.read(delta_sparse)}};
}

}  // namespace ssa::test
