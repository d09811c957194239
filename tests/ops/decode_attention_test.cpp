#include "ops/decode_attention_cases.h"

#include "ops/causal_attention_cases.h"
#include "ops/compressed_attention_cases.h"
#include "ops/sparse_attention_cases.h"
#include "support/catch.h"

using namespace ssa;
using namespace ssa::test;

namespace {

/// The output of the op that computes all tokens at once.
Values all_at_once(OpRunner& run, const DecodeAttentionCase& c, const DecodeAttentionInputs& in) {
  switch (c.keys) {
    case DecodeKeys::tokens: return output(run_causal_attention_forward(run, {c.dims, c.window}, in), "out");
    case DecodeKeys::blocks: return output(run_compressed_attention_forward(run, {c.dims, c.block_size}, in), "out");
    case DecodeKeys::selected: break;
  }
  const SparseAttentionCase sparse{c.dims, c.block_size, c.slots};
  SparseAttentionInputs same(sparse);
  same.q = in.q, same.k = in.k, same.v = in.v, same.indices = in.indices;
  return output(run_sparse_attention_forward(run, sparse, same), "out");
}

}  // namespace

TEST_CASE("decode_attention of one token equals causal, sparse and compressed attention at its position") {
  for (const DecodeAttentionCase& c : reference_cases(kDecodeAttentionCases)) {
    INFO(c.to_string());
    const DecodeAttentionInputs in(c);
    OpRunner run(Precision::exact);
    Values want = all_at_once(run, c, in);
    for (std::size_t i = 0; i < want.size() && c.gates; ++i)
      want[i] *= in.gates[i / static_cast<std::size_t>(c.dims.D) * 3 + 1];
    CHECK(relative_error(output(run_decode_attention(run, c, in), "out"), want) < 1e-14);
  }
}

TEST_CASE("decode_attention in f32 agrees with f64") {
  for (const DecodeAttentionCase& c : reference_cases(kDecodeAttentionCases)) {
    INFO(c.to_string());
    const DecodeAttentionInputs in(c);
    check_f32([&](OpRunner& run) { return run_decode_attention(run, c, in); });
  }
}

TEST_CASE("decode_attention names the tensor or option that does not fit") {
  OpRunner run(Precision::f32);
  const DecodeAttention good{.out = run.act_output({2, 1, 4, 8}),
                             .q = run.act_output({2, 1, 4, 8}),
                             .k = run.act_output({2, 9, 2, 8}),
                             .v = run.act_output({2, 9, 2, 8}),
                             .positions = run.i32_output({2, 1}),
                             .scale = 1};
  CHECK_NOTHROW(validate(good));
  DecodeAttention p = good;
  p.v = run.act_output({2, 8, 2, 8});
  CHECK_THROWS_WITH(validate(p), "decode_attention: v is [2, 8, 2, 8], expected [2, 9, 2, 8]");
  p = good;
  p.positions = run.i32_output({1, 2});
  CHECK_THROWS_WITH(validate(p), "decode_attention: positions is [1, 2], expected [2, 1]");
  p = good;
  p.window = 3;
  p.tokens_per_key = 4;
  CHECK_THROWS_WITH(validate(p), "decode_attention: window and indices need one token per key, found tokens_per_key 4");
  p = good;
  p.gates = run.f32_output({2, 1, 4, 1});
  CHECK_THROWS_WITH(validate(p), "decode_attention: gates is [2, 1, 4, 1], expected [2, 1, 4, 3]");
  p = good;
  p.indices = run.i32_output({2, 1, 2, 3});
  CHECK_THROWS_WITH(validate(p), "decode_attention: block_size 0, expected at least 1");
  p.block_size = 4;
  CHECK_NOTHROW(validate(p));
  p.window = 3;
  CHECK_THROWS_WITH(validate(p), "decode_attention: window 3 and indices, expected one of them");
}

TEST_CASE("decode_attention on CUDA agrees with the CPU") {
  if (skip_without_gpu()) return;
  std::vector<DecodeAttentionCase> cases = kDecodeAttentionCases;
  cases.insert(cases.end(), kLongDecodeAttentionCases.begin(), kLongDecodeAttentionCases.end());
  for (const DecodeAttentionCase& c : cases) {
    if (!cuda_supports(c)) continue;
    INFO(c.to_string());
    const DecodeAttentionInputs in(c);
    check_cuda([&](OpRunner& run) { return run_decode_attention(run, c, in); });
  }
}
