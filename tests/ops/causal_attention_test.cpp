#include "ops/causal_attention_cases.h"

#include "support/attention_op.h"

using namespace ssa;
using namespace ssa::test;

namespace {

AttentionInputs inputs_of(const CausalAttentionCase& c) { return AttentionInputs(c.dims, c.dims.T); }

const AttentionOp<CausalAttentionCase> kCausal{.cases = kCausalAttentionCases,
                                               .inputs = inputs_of,
                                               .forward = run_causal_attention_forward,
                                               .backward = run_causal_attention_backward};

}  // namespace

TEST_CASE("causal attention backward is the derivative of forward") { check_attention_derivative(kCausal); }

TEST_CASE("causal attention is a masked dense softmax") {
  for (const CausalAttentionCase& c : reference_cases(kCausalAttentionCases)) {
    INFO(c.to_string());
    const AttentionInputs in = inputs_of(c);
    OpRunner run(Precision::exact);
    check_dense(run_causal_attention_forward(run, c, in),
                dense_attention(c.dims, c.dims.T, in.q, in.k, in.v, [&](auto b, auto t, auto, auto u) {
                  return piece_begin(c.begins, b, t) <= u && u <= t && (c.window == 0 || t - u < c.window);
                }));
  }
}

TEST_CASE("causal attention in f32 agrees with f64") { check_attention_f32(kCausal); }

TEST_CASE("causal attention: a window as long as the sequence changes nothing") {
  for (const std::int64_t window : {21, 22, 1000}) {
    const CausalAttentionCase full{{2, 21, 2, 3, 8}}, windowed{{2, 21, 2, 3, 8}, window};
    const AttentionInputs in = inputs_of(full);
    OpRunner run(Precision::f32);
    CHECK(output(run_causal_attention_forward(run, windowed, in), "out") ==
          output(run_causal_attention_forward(run, full, in), "out"));
  }
}

TEST_CASE("causal attention does not depend on later tokens") {
  for (const std::int64_t window : {0, 5}) {
    INFO("window " << window);
    const CausalAttentionCase c{{2, 21, 2, 3, 8}, window};
    OpRunner run(Precision::f32);
    check_attends_no_later_token(c.dims, inputs_of(c),
                                 [&](const AttentionInputs& at) { return run_causal_attention_forward(run, c, at); });
  }
}

TEST_CASE("causal attention survives large scores") {
  const CausalAttentionCase c{{1, 9, 1, 2, 8}};
  AttentionInputs in = inputs_of(c);
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
  p.window = 0;
  p.documents.end = run.i32_output({1, 4});
  CHECK_THROWS_WITH(validate(p), "causal_attention_forward: documents.begin is missing, expected [1, 4]");
  p.documents.begin = run.i32_output({4, 1});
  CHECK_THROWS_WITH(validate(p), "causal_attention_forward: documents.begin is [4, 1], expected [1, 4]");
  p.k = tensor({1, 4, 3, 8});
  CHECK_THROWS_WITH(validate(p), "causal_attention_forward: q has 4 heads, expected a multiple of the 3 of k");
}

TEST_CASE("causal attention on CUDA agrees with the CPU") { check_attention_cuda(kCausal); }
