#include "kernels/sparse_attention/sparse_attention_cases.h"

#include "kernels/causal_attention/causal_attention_cases.h"
#include "kernels/select_blocks/select_blocks_cases.h"
#include "support/dense_attention.h"

using namespace ssa;
using namespace ssa::test;

TEST_CASE("sparse attention backward is the derivative of forward") {
  for (const SparseAttentionCase& c : kSparseAttentionCases) {
    if (c.dims.work() > kDerivativeWork) continue;
    INFO(c.to_string());
    const SparseAttentionInputs in(c);
    OpRunner run(Precision::exact);
    const AttentionSaved saved(c.dims, run_sparse_attention_forward(run, c, in), in.d_out);
    const Outputs alone = run_sparse_attention_backward(run, c, in, saved, false);
    const Outputs added = run_sparse_attention_backward(run, c, in, saved, true);
    const auto loss = [&](const SparseAttentionInputs& at) {
      OpRunner r(Precision::exact);
      return weighted_sum(output(run_sparse_attention_forward(r, c, at), "out"), in.d_out);
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

TEST_CASE("sparse attention is a dense softmax masked by the selection") {
  for (const SparseAttentionCase& c : kSparseAttentionCases) {
    if (c.dims.T > 300) continue;
    INFO(c.to_string());
    const SparseAttentionInputs in(c);
    OpRunner run(Precision::exact);
    check_dense(run_sparse_attention_forward(run, c, in),
                dense_attention(c.dims, c.dims.T, in.q, in.k, in.v, SelectionMask(c.dims, c.block_size, in.indices)));
  }
}

TEST_CASE("sparse attention in f32 agrees with f64") {
  for (const SparseAttentionCase& c : kSparseAttentionCases) {
    if (c.dims.T > 300) continue;
    INFO(c.to_string());
    const SparseAttentionInputs in(c);
    OpRunner exact(Precision::exact), f32(Precision::f32);
    const Outputs want = run_sparse_attention_forward(exact, c, in);
    const AttentionSaved saved(c.dims, want, in.d_out);
    const Outputs gradients = run_sparse_attention_backward(exact, c, in, saved, true);
    check_f32(run_sparse_attention_forward(f32, c, in), want);
    check_f32(run_sparse_attention_backward(f32, c, in, saved, true), gradients);
  }
}

TEST_CASE("sparse attention over all blocks is causal attention") {
  const SparseAttentionCase c{{2, 33, 2, 3, 8}, 4, 12};
  const CausalAttentionCase causal{c.dims};
  const SparseAttentionInputs in(c);
  OpRunner run(Precision::exact);
  const Outputs want = run_causal_attention_forward(run, causal, in);
  const Outputs got = run_sparse_attention_forward(run, c, in);
  for (const Output& o : got) CHECK(relative_error(o.values, output(want, o.name)) < 1e-12);
  const AttentionSaved saved(c.dims, want, in.d_out);
  const Outputs want_gradients = run_causal_attention_backward(run, causal, in, saved, false);
  for (const Output& o : run_sparse_attention_backward(run, c, in, saved, false))
    CHECK(relative_error(o.values, output(want_gradients, o.name)) < 1e-12);
}

// Selection included: blocks are chosen from q and k anew after each change.
TEST_CASE("sparse attention sees no later token") {
  for (const BlockSelection mode : {BlockSelection::exact, BlockSelection::reference}) {
    const SelectBlocksCase select{{2, 41, 2, 3, 8}, 4, 3, mode};
    const AttentionDims& dims = select.dims;
    const SparseAttentionCase c{dims, 4, select.slots()};
    SparseAttentionInputs in(c);
    OpRunner run(Precision::f32);
    const auto forward = [&](SparseAttentionInputs at) {
      SelectBlocksInputs scores(select);
      scores.q = at.q;
      scores.k_mean = block_means(dims, 4, at.k);
      at.indices = run_select_blocks(run, select, scores);
      Outputs outputs = run_sparse_attention_forward(run, c, at);
      outputs.push_back({"indices", Values(at.indices.begin(), at.indices.end())});
      return outputs;
    };
    const Outputs before = forward(in);
    for (std::int64_t t = 0; t < dims.T; ++t) {
      SparseAttentionInputs changed = in;
      for (Values* x : {&changed.q, &changed.k, &changed.v}) *x = with_changed_token(dims, *x, t);
      const Outputs after = forward(changed);
      for (const char* name : {"indices", "out", "lse"}) {
        INFO(name << " when token " << t << " changes");
        CHECK(first_tokens(dims, output(after, name), t) == first_tokens(dims, output(before, name), t));
      }
      CHECK(output(after, "out") != output(before, "out"));
    }
  }
}

TEST_CASE("sparse attention names the tensor that does not fit") {
  OpRunner run(Precision::f32);
  const auto tensor = [&](Shape shape) { return run.act_output(shape); };
  SparseAttentionForward p{.out = tensor({1, 4, 4, 8}),
                           .lse = tensor({1, 4, 4}),
                           .q = tensor({1, 4, 4, 8}),
                           .k = tensor({1, 4, 2, 8}),
                           .v = tensor({1, 4, 2, 8}),
                           .indices = run.i32_output({1, 4, 4, 3}),
                           .scale = 1,
                           .block_size = 2};
  CHECK_THROWS_WITH(validate(p), "sparse_attention_forward: indices is [1, 4, 4, 3], expected [1, 4, 2, 3]");
  p.indices = run.i32_output({1, 4, 2, 3});
  CHECK_NOTHROW(validate(p));
  p.block_size = 0;
  CHECK_THROWS_WITH(validate(p), "sparse_attention_forward: block_size 0, expected at least 1");
}

TEST_CASE("sparse attention on CUDA agrees with the CPU") {
  for (const SparseAttentionCase& c : kSparseAttentionCases) {
    if (!have_cuda() || !cuda_supports(c)) continue;
    INFO(c.to_string());
    const SparseAttentionInputs in(c);
    check_cuda([&](OpRunner& run) { return run_sparse_attention_forward(run, c, in); });
    OpRunner exact(Precision::exact);
    const AttentionSaved saved(c.dims, run_sparse_attention_forward(exact, c, in), in.d_out);
    for (const bool accumulate : {false, true})
      check_cuda([&](OpRunner& run) { return run_sparse_attention_backward(run, c, in, saved, accumulate); });
  }
  if (!have_cuda()) warn_no_cuda();
}
