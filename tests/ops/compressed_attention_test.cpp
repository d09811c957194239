#include "ops/compressed_attention_cases.h"

#include "support/attention_op.h"

using namespace ssa;
using namespace ssa::test;

namespace {

AttentionInputs inputs_of(const CompressedAttentionCase& c) { return AttentionInputs(c.dims, c.blocks()); }

const AttentionOp<CompressedAttentionCase> kCompressed{.cases = kCompressedAttentionCases,
                                                       .inputs = inputs_of,
                                                       .forward = run_compressed_attention_forward,
                                                       .backward = run_compressed_attention_backward,
                                                       .d_k = "d_k_mean",
                                                       .d_v = "d_v_mean",
                                                       .accumulates_keys = false};

}  // namespace

TEST_CASE("compressed attention backward is the derivative of forward") { check_attention_derivative(kCompressed); }

TEST_CASE("compressed attention is a dense softmax over complete blocks") {
  for (const CompressedAttentionCase& c : reference_cases(kCompressedAttentionCases)) {
    INFO(c.to_string());
    const AttentionInputs in = inputs_of(c);
    OpRunner run(Precision::exact);
    check_dense(run_compressed_attention_forward(run, c, in),
                dense_attention(c.dims, c.blocks(), in.q, in.k, in.v, [&](auto b, auto t, auto, auto n) {
                  return piece_begin(c.begins, b, t) <= n * c.block_size && (n + 1) * c.block_size <= t + 1;
                }));
  }
}

TEST_CASE("compressed attention in f32 agrees with f64") { check_attention_f32(kCompressed); }

TEST_CASE(
    "compressed attention: tokens before the first complete block get 0, and a block that no token attends to gets "
    "gradient 0") {
  const CompressedAttentionCase c{{2, 10, 1, 2, 8}, 4};  // tokens 0 to 2 attend to nothing; no token attends to block 2
  const AttentionInputs in = inputs_of(c);
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

// The means are recomputed from k and v after each change, so that they are checked too.
TEST_CASE("compressed attention does not depend on later tokens") {
  const CompressedAttentionCase c{{2, 21, 2, 3, 8}, 4};
  OpRunner run(Precision::f32);
  check_attends_no_later_token(c.dims, AttentionInputs(c.dims, c.dims.T), [&](AttentionInputs at) {
    at.k = block_means(c.dims, c.block_size, at.k);
    at.v = block_means(c.dims, c.block_size, at.v);
    return run_compressed_attention_forward(run, c, at);
  });
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

TEST_CASE("compressed attention on CUDA agrees with the CPU") { check_attention_cuda(kCompressed); }
