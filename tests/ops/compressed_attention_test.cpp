#include "kernels/compressed_attention/compressed_attention_cases.h"

#include "support/dense_attention.h"

using namespace ssa;
using namespace ssa::test;

TEST_CASE("compressed attention backward is the derivative of forward") {
  for (const CompressedAttentionCase& c : kCompressedAttentionCases) {
    if (c.dims.work() > kDerivativeWork) continue;
    INFO(c.to_string());
    const AttentionInputs in(c.dims, c.blocks());
    OpRunner run(Precision::exact);
    const AttentionSaved saved(c.dims, run_compressed_attention_forward(run, c, in), in.d_out);
    const Outputs alone = run_compressed_attention_backward(run, c, in, saved, false);
    const Outputs added = run_compressed_attention_backward(run, c, in, saved, true);
    const auto loss = [&](const AttentionInputs& at) {
      OpRunner r(Precision::exact);
      return weighted_sum(output(run_compressed_attention_forward(r, c, at), "out"), in.d_out);
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
    check_gradient("k_mean", loss_k, in.k, output(alone, "d_k_mean"));
    check_gradient("v_mean", loss_v, in.v, output(alone, "d_v_mean"));
    check_gradient("q, accumulated", loss_q, in.q, minus(output(added, "d_q"), in.d_q));
    CHECK(output(added, "d_k_mean") == output(alone, "d_k_mean"));
    CHECK(output(added, "d_v_mean") == output(alone, "d_v_mean"));
  }
}

TEST_CASE("compressed attention is a dense softmax over complete blocks") {
  for (const CompressedAttentionCase& c : kCompressedAttentionCases) {
    if (c.dims.T > 300) continue;
    INFO(c.to_string());
    const AttentionInputs in(c.dims, c.blocks());
    OpRunner run(Precision::exact);
    check_dense(run_compressed_attention_forward(run, c, in),
                dense_attention(c.dims, c.blocks(), in.q, in.k, in.v,
                                [&](auto, auto t, auto, auto n) { return (n + 1) * c.block_size <= t + 1; }));
  }
}

TEST_CASE("compressed attention in f32 agrees with f64") {
  for (const CompressedAttentionCase& c : kCompressedAttentionCases) {
    if (c.dims.T > 300) continue;
    INFO(c.to_string());
    const AttentionInputs in(c.dims, c.blocks());
    OpRunner exact(Precision::exact), f32(Precision::f32);
    const Outputs want = run_compressed_attention_forward(exact, c, in);
    const AttentionSaved saved(c.dims, want, in.d_out);
    const Outputs gradients = run_compressed_attention_backward(exact, c, in, saved, true);
    check_f32(run_compressed_attention_forward(f32, c, in), want);
    check_f32(run_compressed_attention_backward(f32, c, in, saved, true), gradients);
  }
}

TEST_CASE("before the first complete block, compressed attention gives 0 and a block nobody sees gets gradient 0") {
  const CompressedAttentionCase c{{2, 10, 1, 2, 8}, 4};  // tokens 0 to 2 see nothing; nobody sees block 2
  const AttentionInputs in(c.dims, c.blocks());
  OpRunner run(Precision::f32);
  const Outputs forward = run_compressed_attention_forward(run, c, in);
  for (const double x : first_tokens(c.dims, output(forward, "out"), 3)) CHECK(x == 0.0);
  for (const double x : first_tokens(c.dims, output(forward, "lse"), 3)) CHECK(x == -INFINITY);
  const AttentionSaved saved(c.dims, forward, in.d_out);
  const Outputs backward = run_compressed_attention_backward(run, c, in, saved, false);
  for (const double x : first_tokens(c.dims, output(backward, "d_q"), 3)) CHECK(x == 0.0);
  for (const char* name : {"d_k_mean", "d_v_mean"})
    for (std::int64_t b = 0; b < c.dims.B; ++b)
      for (std::int64_t i = 0; i < c.dims.D; ++i) CHECK(output(backward, name)[(b * 3 + 2) * c.dims.D + i] == 0.0);
}

// Means included: they are formed from k and v anew after each change.
TEST_CASE("compressed attention sees no later token") {
  const CompressedAttentionCase c{{2, 21, 2, 3, 8}, 4};
  const AttentionInputs in(c.dims, c.dims.T);
  OpRunner run(Precision::f32);
  const auto forward = [&](AttentionInputs at) {
    at.k = block_means(c.dims, c.block_size, at.k);
    at.v = block_means(c.dims, c.block_size, at.v);
    return run_compressed_attention_forward(run, c, at);
  };
  const Outputs before = forward(in);
  for (std::int64_t t = 0; t < c.dims.T; ++t) {
    AttentionInputs changed = in;
    for (Values* x : {&changed.q, &changed.k, &changed.v}) *x = with_changed_token(c.dims, *x, t);
    const Outputs after = forward(changed);
    for (const char* name : {"out", "lse"}) {
      INFO(name << " when token " << t << " changes");
      CHECK(first_tokens(c.dims, output(after, name), t) == first_tokens(c.dims, output(before, name), t));
    }
  }
}

TEST_CASE("compressed attention names the tensor that does not fit") {
  OpRunner run(Precision::f32);
  const auto tensor = [&](Shape shape) { return run.act_output(shape); };
  CompressedAttentionForward p{.out = tensor({1, 5, 4, 8}),
                               .lse = tensor({1, 5, 4}),
                               .q = tensor({1, 5, 4, 8}),
                               .k_mean = tensor({1, 2, 2, 8}),
                               .v_mean = tensor({1, 3, 2, 8}),
                               .scale = 1,
                               .block_size = 2};
  CHECK_THROWS_WITH(validate(p), "compressed_attention_forward: k_mean is [1, 2, 2, 8], expected [1, 3, 2, 8]");
  p.k_mean = tensor({1, 3, 2, 8});
  CHECK_NOTHROW(validate(p));
}

TEST_CASE("compressed attention on CUDA agrees with the CPU") {
  for (const CompressedAttentionCase& c : kCompressedAttentionCases) {
    if (!have_cuda() || !cuda_supports(c)) continue;
    INFO(c.to_string());
    const AttentionInputs in(c.dims, c.blocks());
    check_cuda([&](OpRunner& run) { return run_compressed_attention_forward(run, c, in); });
    OpRunner exact(Precision::exact);
    const AttentionSaved saved(c.dims, run_compressed_attention_forward(exact, c, in), in.d_out);
    for (const bool accumulate : {false, true})
      check_cuda([&](OpRunner& run) { return run_compressed_attention_backward(run, c, in, saved, accumulate); });
  }
  if (!have_cuda()) warn_no_cuda();
}
