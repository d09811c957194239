// The checks that every attention op has to pass: backward is the derivative of forward, f32 agrees with f64, CUDA
// agrees with the CPU, and no token attends to a later one. A test file describes its op once, as an AttentionOp.
#pragma once

#include "support/dense_attention.h"

namespace ssa::test {

template <class Case, class Inputs = AttentionInputs>
struct AttentionOp {
  const std::vector<Case>& cases;
  Inputs (*inputs)(const Case&);
  Outputs (*forward)(OpRunner&, const Case&, const Inputs&);
  Outputs (*backward)(OpRunner&, const Case&, const Inputs&, const AttentionSaved&, bool accumulate);
  /// The names of the gradients of k and v in the outputs of backward.
  const char *d_k = "d_k", *d_v = "d_v";
  /// Whether a backward with `accumulate` adds to them, as it adds to d_q, or overwrites them.
  bool accumulates_keys = true;
};

/// Against central differences: the gradients that are overwritten, and what is added to accumulated ones.
template <class Case, class Inputs>
void check_attention_derivative(const AttentionOp<Case, Inputs>& op) {
  for (const Case& c : op.cases) {
    if (c.dims.work() > kDerivativeWork) continue;
    INFO(c.to_string());
    const Inputs in = op.inputs(c);
    OpRunner run(Precision::exact);
    const AttentionSaved saved(c.dims, op.forward(run, c, in), in.d_out);
    const Outputs alone = op.backward(run, c, in, saved, false);
    const Outputs onto = op.backward(run, c, in, saved, true);
    const auto loss = [&](const Inputs& at) {
      OpRunner r(Precision::exact);
      return weighted_sum(output(op.forward(r, c, at), "out"), in.d_out);
    };
    check_gradient("q", loss, in, &Inputs::q, output(alone, "d_q"));
    check_gradient("k", loss, in, &Inputs::k, output(alone, op.d_k));
    check_gradient("v", loss, in, &Inputs::v, output(alone, op.d_v));
    check_gradient("q, accumulated", loss, in, &Inputs::q, added(output(onto, "d_q"), in.d_q));
    if (op.accumulates_keys) {
      check_gradient("k, accumulated", loss, in, &Inputs::k, added(output(onto, op.d_k), in.d_k));
      check_gradient("v, accumulated", loss, in, &Inputs::v, added(output(onto, op.d_v), in.d_v));
    } else {
      CHECK(output(onto, op.d_k) == output(alone, op.d_k));
      CHECK(output(onto, op.d_v) == output(alone, op.d_v));
    }
  }
}

/// The f32 backend against f64: sums of up to a few thousand terms of either sign, each with a rounding error of 6e-8.
/// A gradient can vanish (softmax over one key). So one value is added to both sides, the norm of as many ones as there
/// are elements: the error is then relative to the size of d_out at least.
template <class Case, class Inputs>
void check_attention_f32(const AttentionOp<Case, Inputs>& op) {
  const auto check = [](const Outputs& got, const Outputs& want) {
    for (const Output& o : got) {
      Values with_floor = o.values, want_with_floor = output(want, o.name);
      const double floor = std::sqrt(static_cast<double>(o.values.size()));
      with_floor.push_back(floor);
      want_with_floor.push_back(floor);
      INFO(o.name);
      CHECK(relative_error(with_floor, want_with_floor) < 1e-6);
    }
  };
  for (const Case& c : reference_cases(op.cases)) {
    INFO(c.to_string());
    const Inputs in = op.inputs(c);
    OpRunner exact(Precision::exact), f32(Precision::f32);
    const Outputs want = op.forward(exact, c, in);
    const AttentionSaved saved(c.dims, want, in.d_out);
    check(op.forward(f32, c, in), want);
    check(op.backward(f32, c, in, saved, true), op.backward(exact, c, in, saved, true));
  }
}

/// CUDA against the CPU, forward and backward. Skips the test on a machine without a GPU.
template <class Case, class Inputs>
void check_attention_cuda(const AttentionOp<Case, Inputs>& op) {
  if (skip_without_gpu()) return;
  for (const Case& c : op.cases) {
    if (!cuda_supports(c)) continue;
    INFO(c.to_string());
    const Inputs in = op.inputs(c);
    check_cuda([&](OpRunner& run) { return op.forward(run, c, in); });
    OpRunner exact(Precision::exact);
    const AttentionSaved saved(c.dims, op.forward(exact, c, in), in.d_out);
    for (const bool accumulate : {false, true})
      check_cuda([&](OpRunner& run) { return op.backward(run, c, in, saved, accumulate); });
  }
}

/// Changing token t of q, k and v changes no output of `forward(inputs)` before t, but changes out and lse.
template <class Inputs, class Forward>
void check_attends_no_later_token(const AttentionDims& dims, const Inputs& in, Forward&& forward) {
  const Outputs before = forward(in);
  for (std::int64_t t = 0; t < dims.T; ++t) {
    Inputs changed = in;
    for (Values* x : {&changed.q, &changed.k, &changed.v}) *x = with_changed_token(dims, *x, t);
    const Outputs after = forward(changed);
    for (const Output& o : before) {
      INFO(o.name << " when token " << t << " changes");
      CHECK(first_tokens(dims, output(after, o.name), t) == first_tokens(dims, o.values, t));
    }
    for (const char* name : {"out", "lse"}) {
      INFO(name << " when token " << t << " changes");
      CHECK(output(after, name) != output(before, name));
    }
  }
}

}  // namespace ssa::test
