#include "ops/sparse_attention_cases.h"

#include "ops/causal_attention_cases.h"
#include "ops/select_blocks_cases.h"
#include "support/attention_op.h"

using namespace ssa;
using namespace ssa::test;

namespace {

SparseAttentionInputs inputs_of(const SparseAttentionCase& c) { return SparseAttentionInputs(c); }

const AttentionOp<SparseAttentionCase, SparseAttentionInputs> kSparse{.cases = kSparseAttentionCases,
                                                                      .inputs = inputs_of,
                                                                      .forward = run_sparse_attention_forward,
                                                                      .backward = run_sparse_attention_backward};

}  // namespace

TEST_CASE("sparse attention backward is the derivative of forward") { check_attention_derivative(kSparse); }

TEST_CASE("sparse attention equals dense attention masked by the selection") {
  for (const SparseAttentionCase& c : reference_cases(kSparseAttentionCases)) {
    INFO(c.to_string());
    const SparseAttentionInputs in = inputs_of(c);
    OpRunner run(Precision::exact);
    check_dense(run_sparse_attention_forward(run, c, in),
                dense_attention(c.dims, c.dims.T, in.q, in.k, in.v, SelectionMask(c.dims, c.block_size, in.indices)));
  }
}

TEST_CASE("sparse attention in f32 agrees with f64") { check_attention_f32(kSparse); }

TEST_CASE("sparse attention over all blocks equals causal attention") {
  const SparseAttentionCase c{{2, 33, 2, 3, 8}, 4, 12};
  const CausalAttentionCase causal{c.dims};
  const SparseAttentionInputs in = inputs_of(c);
  OpRunner run(Precision::exact);
  const Outputs want = run_causal_attention_forward(run, causal, in);
  const Outputs got = run_sparse_attention_forward(run, c, in);
  for (const Output& o : got) CHECK(relative_error(o.values, output(want, o.name)) < 1e-12);
  const AttentionSaved saved(c.dims, want, in.d_out);
  const Outputs want_gradients = run_causal_attention_backward(run, causal, in, saved, false);
  for (const Output& o : run_sparse_attention_backward(run, c, in, saved, false))
    CHECK(relative_error(o.values, output(want_gradients, o.name)) < 1e-12);
}

// Blocks are selected again from q and k after each change.
TEST_CASE("sparse attention with its selection does not depend on later tokens") {
  for (const BlockSelection mode : {BlockSelection::exact, BlockSelection::reference}) {
    const SelectBlocksCase select{{2, 41, 2, 3, 8}, 4, 3, mode};
    const SparseAttentionCase c{select.dims, 4, select.slots()};
    OpRunner run(Precision::f32);
    check_attends_no_later_token(c.dims, inputs_of(c), [&](SparseAttentionInputs at) {
      SelectBlocksInputs scores(select);
      scores.q = at.q;
      scores.k_mean = block_means(c.dims, 4, at.k);
      at.indices = run_select_blocks(run, select, scores);
      Outputs outputs = run_sparse_attention_forward(run, c, at);
      outputs.push_back({"indices", Values(at.indices.begin(), at.indices.end())});
      return outputs;
    });
  }
}

TEST_CASE("sparse attention validation names the wrong tensor or value") {
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

TEST_CASE("sparse attention on CUDA agrees with the CPU") { check_attention_cuda(kSparse); }
