// Test cases of swiglu.
#pragma once

#include "kernels/swiglu/swiglu.h"
#include "support/op_runner.h"

namespace ssa::test {

struct SwigluCase {
  std::int64_t M, F;
  bool alias;      ///< d_gate_up is gate_up
  bool write_out;  ///< backward recomputes out
};

/// One element, one token, odd sizes, the tiny and ssa-1b widths.
inline const std::vector<SwigluCase> kSwigluCases = {
    {1, 1, false, true},   {1, 8, true, false},    {3, 17, true, true},   {7, 65, false, false},
    {33, 200, true, true}, {64, 512, false, true}, {5, 8192, true, true}, {130, 1003, true, true}};

struct SwigluInputs {
  Values gate_up, d_out;

  explicit SwigluInputs(const SwigluCase& c)
      : gate_up(random_values(c.M * 2 * c.F, 1, 2.0)), d_out(loss_weights(c.M * c.F)) {}
};

inline Outputs run_swiglu_forward(OpRunner& run, const SwigluCase& c, const SwigluInputs& in) {
  const Tensor out = run.act_output({c.M, c.F});
  swiglu_forward(run.stream(), {.out = out, .gate_up = run.act_input(in.gate_up, {c.M, 2 * c.F})});
  return {{"out", run.read(out)}};
}

inline Outputs run_swiglu_backward(OpRunner& run, const SwigluCase& c, const SwigluInputs& in) {
  const Tensor gate_up = run.act_input(in.gate_up, {c.M, 2 * c.F});
  const Tensor d_gate_up = c.alias ? gate_up : run.act_output({c.M, 2 * c.F});
  const Tensor out = c.write_out ? run.act_output({c.M, c.F}) : Tensor();
  swiglu_backward(
      run.stream(),
      {.d_gate_up = d_gate_up, .out = out, .d_out = run.act_input(in.d_out, {c.M, c.F}), .gate_up = gate_up});
  Outputs outputs = {{"d_gate_up", run.read(d_gate_up)}};
  if (c.write_out) outputs.push_back({"out", run.read(out)});
  return outputs;
}

}  // namespace ssa::test
