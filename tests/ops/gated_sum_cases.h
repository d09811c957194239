// Test cases of gated_sum.
#pragma once

#include <cmath>

#include "kernels/attention/gates/gated_sum.h"
#include "support/op_runner.h"

namespace ssa::test {

struct GatedSumCase {
  std::int64_t B, T, HQ, D;
  bool compressed, window;

  std::int64_t heads() const { return B * T * HQ; }
};

/// One to three branches; one element, odd sizes, the ssa-1b heads with both supported head sizes.
inline const std::vector<GatedSumCase> kGatedSumCases = {
    {1, 1, 1, 1, false, false}, {1, 3, 3, 7, true, false},   {2, 5, 4, 16, false, true},   {3, 37, 6, 32, true, true},
    {1, 7, 32, 64, true, true}, {2, 3, 32, 128, true, true}, {1, 33, 16, 64, false, false}};

struct GatedSumInputs {
  Values gates, selected, compressed, window, d_out;

  explicit GatedSumInputs(const GatedSumCase& c)
      : gates(random_values(c.heads() * 3, 1)),
        selected(random_values(c.heads() * c.D, 2)),
        compressed(random_values(c.heads() * c.D, 3)),
        window(random_values(c.heads() * c.D, 4)),
        d_out(loss_weights(c.heads() * c.D)) {
    for (double& g : gates) g = 1 / (1 + std::exp(-g));
  }
};

inline Outputs run_gated_sum_forward(OpRunner& run, const GatedSumCase& c, const GatedSumInputs& in) {
  const Shape shape{c.B, c.T, c.HQ, c.D};
  const Tensor out = run.act_output(shape);
  gated_sum_forward(run.stream(), {.out = out,
                                   .gates = run.f32_input(in.gates, {c.B, c.T, c.HQ, 3}),
                                   .selected = run.act_input(in.selected, shape),
                                   .compressed = c.compressed ? run.act_input(in.compressed, shape) : Tensor(),
                                   .window = c.window ? run.act_input(in.window, shape) : Tensor()});
  return {{"out", run.read(out)}};
}

inline Outputs run_gated_sum_backward(OpRunner& run, const GatedSumCase& c, const GatedSumInputs& in) {
  const Shape shape{c.B, c.T, c.HQ, c.D}, delta_shape{c.B, c.T, c.HQ};
  const Tensor d_gates = run.f32_output({c.B, c.T, c.HQ, 3});
  const Tensor d_selected = run.act_output(shape), delta_selected = run.f32_output(delta_shape);
  const Tensor d_compressed = c.compressed ? run.act_output(shape) : Tensor();
  const Tensor delta_compressed = c.compressed ? run.f32_output(delta_shape) : Tensor();
  const Tensor d_window = c.window ? run.act_output(shape) : Tensor();
  const Tensor delta_window = c.window ? run.f32_output(delta_shape) : Tensor();
  gated_sum_backward(run.stream(), {.d_gates = d_gates,
                                    .d_selected = d_selected,
                                    .delta_selected = delta_selected,
                                    .d_compressed = d_compressed,
                                    .delta_compressed = delta_compressed,
                                    .d_window = d_window,
                                    .delta_window = delta_window,
                                    .d_out = run.act_input(in.d_out, shape),
                                    .gates = run.f32_input(in.gates, {c.B, c.T, c.HQ, 3}),
                                    .selected = run.act_input(in.selected, shape),
                                    .compressed = c.compressed ? run.act_input(in.compressed, shape) : Tensor(),
                                    .window = c.window ? run.act_input(in.window, shape) : Tensor()});
  Outputs outputs = {{"d_gates", run.read(d_gates)},
                     {"d_selected", run.read(d_selected)},
                     {"delta_selected", run.read(delta_selected)}};
  if (c.compressed) {
    outputs.push_back({"d_compressed", run.read(d_compressed)});
    outputs.push_back({"delta_compressed", run.read(delta_compressed)});
  }
  if (c.window) {
    outputs.push_back({"d_window", run.read(d_window)});
    outputs.push_back({"delta_window", run.read(delta_window)});
  }
  return outputs;
}

}  // namespace ssa::test
