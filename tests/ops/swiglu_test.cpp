#include "ops/swiglu_cases.h"

using namespace ssa;
using namespace ssa::test;

TEST_CASE("swiglu is silu(gate) * up, for large arguments too") {
  const SwigluCase c{1, 6, false, false};
  SwigluInputs in(c);
  in.gate_up = {0, 1, -1, 30, -30, -200, /*up*/ 3, 2, 2, 2, 2, 2};
  OpRunner run(Precision::f32);
  const Values out = output(run_swiglu_forward(run, c, in), "out");
  const Values want = {0, 2 / (1 + std::exp(-1.0)), -2 / (1 + std::exp(1.0)), 60, -60 * std::exp(-30.0), 0};
  for (std::size_t i = 0; i < want.size(); ++i) CHECK(out[i] == Approx(want[i]).epsilon(1e-6).margin(1e-30));
}

TEST_CASE("swiglu backward is the derivative of forward, in place and not") {
  for (SwigluCase c : kSwigluCases) {
    CAPTURE(c.M, c.F);
    const SwigluInputs in(c);
    for (const bool alias : {false, true}) {
      c.alias = alias;
      OpRunner run(Precision::exact);
      const Outputs backward = run_swiglu_backward(run, c, in);
      const auto loss = [&](const SwigluInputs& at) {
        OpRunner r(Precision::exact);
        return weighted_sum(output(run_swiglu_forward(r, c, at), "out"), in.d_out);
      };
      check_gradient("gate_up", loss, in, &SwigluInputs::gate_up, output(backward, "d_gate_up"));
      if (c.write_out) CHECK(output(backward, "out") == output(run_swiglu_forward(run, c, in), "out"));
    }
  }
}

TEST_CASE("swiglu in f32 agrees with f64 on any number of threads") {
  for (const SwigluCase& c : kSwigluCases) {
    CAPTURE(c.M, c.F);
    const SwigluInputs in(c);
    check_f32([&](OpRunner& run) { return run_swiglu_forward(run, c, in); });
    check_f32([&](OpRunner& run) { return run_swiglu_backward(run, c, in); });
  }
}

TEST_CASE("swiglu refuses tensors that do not fit") {
  OpRunner run(Precision::f32);
  CHECK_THROWS_WITH(swiglu_forward(run.stream(), {.out = run.act_output({2, 3}), .gate_up = run.act_output({2, 3})}),
                    "swiglu_forward: gate_up is [2, 3], expected [2, 6]");
  CHECK_THROWS_WITH(swiglu_backward(run.stream(), {.d_gate_up = run.act_output({2, 6}),
                                                   .out = run.act_output({2, 6}),
                                                   .d_out = run.act_output({2, 3}),
                                                   .gate_up = run.act_output({2, 6})}),
                    "swiglu_backward: out is [2, 6], expected [2, 3]");
}

TEST_CASE("swiglu on CUDA agrees with the CPU") {
  if (skip_without_gpu()) return;
  for (const SwigluCase& c : kSwigluCases) {
    CAPTURE(c.M, c.F);
    const SwigluInputs in(c);
    check_cuda([&](OpRunner& run) { return run_swiglu_forward(run, c, in); });
    check_cuda([&](OpRunner& run) { return run_swiglu_backward(run, c, in); });
  }
}
