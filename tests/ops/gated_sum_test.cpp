#include "ops/gated_sum_cases.h"

using namespace ssa;
using namespace ssa::test;

TEST_CASE("gated_sum weights each branch by its own gate") {
  const GatedSumCase c{1, 1, 2, 2, true, true};
  GatedSumInputs in(c);
  in.gates = {/*cmp*/ 1, /*slc*/ 0.5, /*swa*/ 0.25, 0, 1, 2};
  in.selected = {2, 4, 6, 8};
  in.compressed = {10, 20, 30, 40};
  in.window = {4, 8, 12, 16};
  OpRunner run(Precision::f32);
  CHECK(output(run_gated_sum_forward(run, c, in), "out") == Values{12, 24, 30, 40});
}

TEST_CASE("gated_sum backward is the derivative of forward, with one, two and three branches") {
  for (const GatedSumCase& c : kGatedSumCases) {
    CAPTURE(c.B, c.T, c.HQ, c.D, c.compressed, c.window);
    const GatedSumInputs in(c);
    OpRunner run(Precision::exact);
    const Outputs backward = run_gated_sum_backward(run, c, in);
    const auto loss = [&](const GatedSumInputs& at) {
      OpRunner r(Precision::exact);
      return weighted_sum(output(run_gated_sum_forward(r, c, at), "out"), in.d_out);
    };
    const auto check = [&](const std::string& name, Values GatedSumInputs::*input) {
      check_gradient(name, loss, in, input, output(backward, "d_" + name));
    };
    const auto check_branch = [&](const std::string& name, Values GatedSumInputs::*input) {
      check(name, input);
      const Values want = head_dots(output(backward, "d_" + name), in.*input, c.D);
      CHECK(relative_error(output(backward, "delta_" + name), want) < 1e-13);
    };
    check("gates", &GatedSumInputs::gates);
    check_branch("selected", &GatedSumInputs::selected);
    if (c.compressed) check_branch("compressed", &GatedSumInputs::compressed);
    if (c.window) check_branch("window", &GatedSumInputs::window);
  }
}

TEST_CASE("gated_sum in f32 agrees with f64 on any number of threads") {
  for (const GatedSumCase& c : kGatedSumCases) {
    CAPTURE(c.B, c.T, c.HQ, c.D, c.compressed, c.window);
    const GatedSumInputs in(c);
    check_f32([&](OpRunner& run) { return run_gated_sum_forward(run, c, in); });
    check_f32([&](OpRunner& run) { return run_gated_sum_backward(run, c, in); });
  }
}

TEST_CASE("gated_sum refuses a branch without its gradients") {
  OpRunner run(Precision::f32);
  const Shape shape{1, 2, 3, 4};
  CHECK_THROWS_WITH(gated_sum_backward(run.stream(), {.d_gates = run.f32_output({1, 2, 3, 3}),
                                                      .d_selected = run.act_output(shape),
                                                      .delta_selected = run.f32_output({1, 2, 3}),
                                                      .d_out = run.act_output(shape),
                                                      .gates = run.f32_output({1, 2, 3, 3}),
                                                      .selected = run.act_output(shape),
                                                      .window = run.act_output(shape)}),
                    "gated_sum_backward: window, d_window and delta_window come together");
  CHECK_THROWS_WITH(gated_sum_forward(run.stream(), {.out = run.act_output(shape),
                                                     .gates = run.f32_output({1, 2, 3, 2}),
                                                     .selected = run.act_output(shape)}),
                    "gated_sum_forward: gates is [1, 2, 3, 2], expected [1, 2, 3, 3]");
}

TEST_CASE("gated_sum on CUDA agrees with the CPU") {
  if (skip_without_gpu()) return;
  for (const GatedSumCase& c : kGatedSumCases) {
    CAPTURE(c.B, c.T, c.HQ, c.D, c.compressed, c.window);
    const GatedSumInputs in(c);
    check_cuda([&](OpRunner& run) { return run_gated_sum_forward(run, c, in); });
    check_cuda([&](OpRunner& run) { return run_gated_sum_backward(run, c, in); });
  }
}
