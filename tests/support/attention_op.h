// What every attention op is asked: is backward the derivative of forward, do f32 and f64 agree, do CUDA and the CPU,
// does a token see a later one? A test file says once how its op is run.
#pragma once

#include "support/dense_attention.h"

namespace ssa::test {

template <class Case, class Inputs = AttentionInputs>
struct AttentionOp {
  const std::vector<Case>& cases;
  Inputs (*inputs)(const Case&);
  Outputs (*forward)(OpRunner&, const Case&, const Inputs&);
  Outputs (*backward)(OpRunner&, const Case&, const Inputs&, const AttentionSaved&, bool accumulate);
  /// What backward calls the gradients of k and v.
  const char *d_k = "d_k", *d_v = "d_v";
  /// Whether a backward that accumulates adds to them too, as to d_q, or writes them all the same.
  bool accumulates_keys = true;
};

/// Central differences, of the gradients written and of those added.
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
/// A gradient can vanish (softmax over one key), so the error is relative to at least 1 an element, the size of d_out.
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
  for (const Case& c : op.cases) {
    if (c.dims.T > kReferenceTokens) continue;
    INFO(c.to_string());
    const Inputs in = op.inputs(c);
    OpRunner exact(Precision::exact), f32(Precision::f32);
    const Outputs want = op.forward(exact, c, in);
    const AttentionSaved saved(c.dims, want, in.d_out);
    check(op.forward(f32, c, in), want);
    check(op.backward(f32, c, in, saved, true), op.backward(exact, c, in, saved, true));
  }
}

template <class Case, class Inputs>
void check_attention_cuda(const AttentionOp<Case, Inputs>& op) {
  for (const Case& c : op.cases) {
    if (!have_cuda() || !cuda_supports(c)) continue;
    INFO(c.to_string());
    const Inputs in = op.inputs(c);
    check_cuda([&](OpRunner& run) { return op.forward(run, c, in); });
    OpRunner exact(Precision::exact);
    const AttentionSaved saved(c.dims, op.forward(exact, c, in), in.d_out);
    for (const bool accumulate : {false, true})
      check_cuda([&](OpRunner& run) { return op.backward(run, c, in, saved, accumulate); });
  }
  if (!have_cuda()) warn_no_cuda();
}

/// Other numbers in token t of q, k and v change no output `forward(inputs)` before t, but change out and lse.
template <class Inputs, class Forward>
void check_sees_no_later_token(const AttentionDims& dims, const Inputs& in, Forward&& forward) {
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
