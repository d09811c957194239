#include "ops/gate_alignment_cases.h"

using namespace ssa;
using namespace ssa::test;

namespace {

double smooth_l1(double a, double b) {
  const double distance = std::abs(a - b);
  return distance < 1 ? 0.5 * distance * distance : distance - 0.5;
}

struct Expected {
  Values out;
  double align_full = 0;    ///< sum of SmoothL1(a_full, stop(a_sparse))
  double align_sparse = 0;  ///< sum of SmoothL1(stop(a_full), a_sparse)
};

/// The two terms of the definition: whatever is inside stop() is taken from `stopped` instead of `in`.
Expected by_definition(const GateAlignmentCase& c, const GateAlignmentInputs& in, const GateAlignmentInputs& stopped) {
  Expected e;
  for (std::size_t i = 0; i < in.full.size(); ++i) {
    const std::size_t head = i / static_cast<std::size_t>(c.D), row = head / static_cast<std::size_t>(c.T * c.HQ);
    const double g = in.gates[head * 3 + 1], g_stopped = stopped.gates[head * 3 + 1];
    e.out.push_back(g * (c.full_stream[row] ? in.full[i] : in.sparse[i]));
    e.align_full += smooth_l1(g * in.full[i], g_stopped * stopped.sparse[i]);
    e.align_sparse += smooth_l1(g_stopped * stopped.full[i], g * in.sparse[i]);
  }
  return e;
}

}  // namespace

TEST_CASE("gate_alignment outputs the attention stream that full_stream selects and adds both loss terms") {
  for (const GateAlignmentCase& c : kGateAlignmentCases) {
    CAPTURE(c.B(), c.T, c.HQ, c.D);
    const GateAlignmentInputs in(c);
    OpRunner run(Precision::exact);
    const Outputs forward = run_gate_alignment_forward(run, c, in);
    const Expected want = by_definition(c, in, in);
    CHECK(output(forward, "out") == want.out);
    const double alignment = in.alignment + c.alignment_scale * (want.align_full + want.align_sparse);
    CHECK(output(forward, "alignment")[0] == Approx(alignment).epsilon(1e-13));
  }
}

TEST_CASE("gate_alignment backward is the derivative of the loss with stopped gradients") {
  for (const GateAlignmentCase& c : kGateAlignmentCases) {
    CAPTURE(c.B(), c.T, c.HQ, c.D, c.full_scale, c.sparse_scale);
    const GateAlignmentInputs in(c);
    OpRunner run(Precision::exact);
    const Outputs backward = run_gate_alignment_backward(run, c, in);
    const auto loss = [&](const GateAlignmentInputs& at) {
      const Expected e = by_definition(c, at, in);
      return weighted_sum(e.out, in.d_out) + static_cast<double>(c.full_scale) * e.align_full +
             static_cast<double>(c.sparse_scale) * e.align_sparse;
    };
    const auto check = [&](const std::string& name, Values GateAlignmentInputs::*input) {
      check_gradient(name, loss, in, input, output(backward, "d_" + name));
    };
    check("full", &GateAlignmentInputs::full);
    check("sparse", &GateAlignmentInputs::sparse);
    check("gates", &GateAlignmentInputs::gates);
    CHECK(relative_error(output(backward, "delta_full"), head_dots(output(backward, "d_full"), in.full, c.D)) < 1e-13);
    CHECK(relative_error(output(backward, "delta_sparse"), head_dots(output(backward, "d_sparse"), in.sparse, c.D)) <
          1e-13);
  }
}

TEST_CASE("gate_alignment in f32 agrees with f64 on any number of threads") {
  for (const GateAlignmentCase& c : kGateAlignmentCases) {
    CAPTURE(c.B(), c.T, c.HQ, c.D);
    const GateAlignmentInputs in(c);
    check_f32([&](OpRunner& run) { return run_gate_alignment_forward(run, c, in); });
    check_f32([&](OpRunner& run) { return run_gate_alignment_backward(run, c, in); });
  }
}

TEST_CASE("gate_alignment refuses tensors that do not fit") {
  OpRunner run(Precision::f32);
  const Shape shape{2, 3, 4, 8};
  CHECK_THROWS_WITH(gate_alignment_forward(run.stream(), {.out = run.act_output(shape),
                                                          .alignment = run.f64_input({0}, {1}),
                                                          .gates = run.f32_output({2, 3, 4, 3}),
                                                          .full = run.act_output(shape),
                                                          .sparse = run.act_output(shape),
                                                          .full_stream = run.i32_output({3}),
                                                          .alignment_scale = 1}),
                    "gate_alignment_forward: full_stream is [3], expected [2]");
}

TEST_CASE("gate_alignment on CUDA agrees with the CPU") {
  if (skip_without_gpu()) return;
  for (const GateAlignmentCase& c : kGateAlignmentCases) {
    CAPTURE(c.B(), c.T, c.HQ, c.D);
    const GateAlignmentInputs in(c);
    check_cuda([&](OpRunner& run) { return run_gate_alignment_forward(run, c, in); });
    // CUDA sums delta from the stored gradients, rounded to 2^-9; `rounded` sums it from unrounded ones. The difference
    // shows where a head has few elements.
    check_cuda([&](OpRunner& run) { return run_gate_alignment_backward(run, c, in); }, 0x1p-9);
  }
}
