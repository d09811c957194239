#include "kernels/causal_attention/causal_attention_cases.h"

#include "support/dense_attention.h"

using namespace ssa;
using namespace ssa::test;

TEST_CASE("causal attention backward is the derivative of forward") {
  for (const CausalAttentionCase& c : kCausalAttentionCases) {
    if (c.dims.work() > kDerivativeWork) continue;
    INFO(c.to_string());
    const AttentionInputs in(c.dims, c.dims.T);
    OpRunner run(Precision::exact);
    const AttentionSaved saved(c.dims, run_causal_attention_forward(run, c, in), in.d_out);
    const Outputs alone = run_causal_attention_backward(run, c, in, saved, false);
    const Outputs added = run_causal_attention_backward(run, c, in, saved, true);
    const auto loss = [&](const AttentionInputs& at) {
      OpRunner r(Precision::exact);
      return weighted_sum(output(run_causal_attention_forward(r, c, at), "out"), in.d_out);
    };
    const auto loss_q = [&](const Values& q) {
      auto at = in;
      at.q = q;
      return loss(at);
    };
    const auto loss_k = [&](const Values& k) {
      auto at = in;
      at.k = k;
      return loss(at);
    };
    const auto loss_v = [&](const Values& v) {
      auto at = in;
      at.v = v;
      return loss(at);
    };
    check_gradient("q", loss_q, in.q, output(alone, "d_q"));
    check_gradient("k", loss_k, in.k, output(alone, "d_k"));
    check_gradient("v", loss_v, in.v, output(alone, "d_v"));
    check_gradient("q, accumulated", loss_q, in.q, minus(output(added, "d_q"), in.d_q));
    check_gradient("k, accumulated", loss_k, in.k, minus(output(added, "d_k"), in.d_k));
    check_gradient("v, accumulated", loss_v, in.v, minus(output(added, "d_v"), in.d_v));
  }
}

TEST_CASE("causal attention is a masked dense softmax") {
  for (const CausalAttentionCase& c : kCausalAttentionCases) {
    if (c.dims.T > 300) continue;
    INFO(c.to_string());
    const AttentionInputs in(c.dims, c.dims.T);
    OpRunner run(Precision::exact);
    check_dense(run_causal_attention_forward(run, c, in),
                dense_attention(c.dims, c.dims.T, in.q, in.k, in.v, [&](auto, auto t, auto, auto u) {
                  return u <= t && (c.window == 0 || t - u < c.window);
                }));
  }
}

TEST_CASE("causal attention in f32 agrees with f64") {
  for (const CausalAttentionCase& c : kCausalAttentionCases) {
    if (c.dims.T > 300) continue;
    INFO(c.to_string());
    const AttentionInputs in(c.dims, c.dims.T);
    OpRunner exact(Precision::exact), f32(Precision::f32);
    const Outputs want = run_causal_attention_forward(exact, c, in);
    const AttentionSaved saved(c.dims, want, in.d_out);
    const Outputs gradients = run_causal_attention_backward(exact, c, in, saved, true);
    check_f32(run_causal_attention_forward(f32, c, in), want);
    check_f32(run_causal_attention_backward(f32, c, in, saved, true), gradients);
  }
}

TEST_CASE("a window as long as the row is full causal attention") {
  for (const std::int64_t window : {21, 22, 1000}) {
    const CausalAttentionCase full{{2, 21, 2, 3, 8}}, windowed{{2, 21, 2, 3, 8}, window};
    const AttentionInputs in(full.dims, full.dims.T);
    OpRunner run(Precision::f32);
    CHECK(output(run_causal_attention_forward(run, windowed, in), "out") ==
          output(run_causal_attention_forward(run, full, in), "out"));
  }
}

TEST_CASE("causal attention sees no later token") {
  for (const std::int64_t window : {0, 5}) {
    const CausalAttentionCase c{{2, 21, 2, 3, 8}, window};
    const AttentionInputs in(c.dims, c.dims.T);
    OpRunner run(Precision::f32);
    const Outputs before = run_causal_attention_forward(run, c, in);
    for (std::int64_t t = 0; t < c.dims.T; ++t) {
      AttentionInputs changed = in;
      for (Values* x : {&changed.q, &changed.k, &changed.v}) *x = with_changed_token(c.dims, *x, t);
      const Outputs after = run_causal_attention_forward(run, c, changed);
      for (const char* name : {"out", "lse"}) {
        INFO(name << " when token " << t << " changes, window " << window);
        CHECK(first_tokens(c.dims, output(after, name), t) == first_tokens(c.dims, output(before, name), t));
        CHECK(output(after, name) != output(before, name));
      }
    }
  }
}

TEST_CASE("causal attention survives large scores") {
  const CausalAttentionCase c{{1, 9, 1, 2, 8}};
  AttentionInputs in(c.dims, c.dims.T);
  for (double& x : in.q) x *= 1e4;  // exp of an unshifted score would overflow
  OpRunner run(Precision::f32);
  for (const Output& o : run_causal_attention_forward(run, c, in))
    CHECK(std::all_of(o.values.begin(), o.values.end(), [](double x) { return std::isfinite(x); }));
}

TEST_CASE("causal attention names the tensor that does not fit") {
  const CausalAttentionCase c{{1, 4, 2, 2, 8}};
  AttentionInputs in(c.dims, c.dims.T);
  OpRunner run(Precision::f32);
  const auto tensor = [&](Shape shape) { return run.act_output(shape); };
  CausalAttentionForward p{.out = tensor({1, 4, 4, 8}),
                           .lse = tensor({1, 4, 4}),
                           .q = tensor({1, 4, 4, 8}),
                           .k = tensor({1, 4, 2, 8}),
                           .v = tensor({1, 5, 2, 8}),
                           .scale = 1};
  CHECK_THROWS_WITH(validate(p), "causal_attention_forward: v is [1, 5, 2, 8], expected [1, 4, 2, 8]");
  p.v = tensor({1, 4, 2, 8});
  CHECK_NOTHROW(validate(p));
  p.window = -1;
  CHECK_THROWS_WITH(validate(p), "causal_attention_forward: window -1, expected 0 or more");
  p.k = tensor({1, 4, 3, 8});
  CHECK_THROWS_WITH(validate(p), "causal_attention_forward: q has 4 heads, expected a multiple of the 3 of k");
}

TEST_CASE("causal attention on CUDA agrees with the CPU") {
  for (const CausalAttentionCase& c : kCausalAttentionCases) {
    if (!have_cuda() || !cuda_supports(c)) continue;
    INFO(c.to_string());
    const AttentionInputs in(c.dims, c.dims.T);
    check_cuda([&](OpRunner& run) { return run_causal_attention_forward(run, c, in); });
    OpRunner exact(Precision::exact);
    const AttentionSaved saved(c.dims, run_causal_attention_forward(exact, c, in), in.d_out);
    for (const bool accumulate : {false, true})
      check_cuda([&](OpRunner& run) { return run_causal_attention_backward(run, c, in, saved, accumulate); });
  }
  if (!have_cuda()) warn_no_cuda();
}
