#include "ops/attention_divergence_cases.h"

#include "support/dense_attention.h"

using namespace ssa;
using namespace ssa::test;

namespace {

DenseAttention dense_causal(const AttentionDivergenceCase& c, const AttentionDivergenceInputs& in) {
  return dense_attention(c.dims, c.dims.T, in.q, in.k, in.k,
                         [&](auto b, auto t, auto, auto u) { return piece_begin(c.begins, b, t) <= u && u <= t; });
}

}  // namespace

TEST_CASE(
    "attention_divergence sums the distance and norm of the outputs and the dense probability of the first tokens") {
  for (const AttentionDivergenceCase& c : kAttentionDivergenceCases) {
    INFO(c.to_string());
    const AttentionDivergenceInputs in(c);
    const DenseAttention dense = dense_causal(c, in);
    Values distance = in.distance, norm = in.norm, sink = in.sink;
    const std::int64_t HQ = c.dims.HQ(), D = c.dims.D, T = c.dims.T;
    for (std::int64_t row = 0; row < c.dims.row_shape().count(); ++row) {
      for (std::int64_t i = row * D; i < (row + 1) * D; ++i) {
        distance[row % HQ] += (in.full[i] - in.sparse[i]) * (in.full[i] - in.sparse[i]);
        norm[row % HQ] += in.full[i] * in.full[i];
      }
      const std::int64_t begin = piece_begin(c.begins, row / HQ / T, row / HQ % T);
      for (std::int64_t u = begin; u < std::min(T, begin + c.sink_tokens); ++u)
        sink[row % HQ] += dense.probability[row * T + u];
    }
    OpRunner exact(Precision::exact), f32(Precision::f32);
    const Outputs got = run_attention_divergence(exact, c, in, dense.lse),
                  got_f32 = run_attention_divergence(f32, c, in, dense.lse);
    for (const auto& [name, want] : {std::pair{"distance", distance}, {"norm", norm}, {"sink", sink}}) {
      INFO(name);
      CHECK(relative_error(output(got, name), want) < 1e-12);
      CHECK(relative_error(output(got_f32, name), want) < 2e-6);  // a score in f32 has a relative error of about 1e-7
    }
  }
}

TEST_CASE("attention_divergence: the sink is 1 when it covers the whole sequence, and equal outputs have distance 0") {
  const AttentionDivergenceCase c{{2, 5, 2, 3, 8}, 5};
  AttentionDivergenceInputs in(c);
  in.sparse = in.full;
  for (Values* sum : {&in.distance, &in.norm, &in.sink}) sum->assign(sum->size(), 0.0);
  OpRunner run(Precision::exact);
  const Outputs got = run_attention_divergence(run, c, in, dense_causal(c, in).lse);
  for (const double sink : output(got, "sink")) CHECK(std::abs(sink / 10 - 1) < 1e-12);
  for (const double distance : output(got, "distance")) CHECK(distance == 0);
}

TEST_CASE("attention_divergence names the tensor that does not fit") {
  OpRunner run(Precision::f32);
  const auto tensor = [&](Shape shape) { return run.act_output(shape); };
  const Tensor sum = run.f64_input(Values(4, 0.0), {4});
  AttentionDivergence p{.distance = sum,
                        .norm = sum,
                        .sink = sum,
                        .full = tensor({1, 5, 4, 8}),
                        .sparse = tensor({1, 5, 2, 8}),
                        .q = tensor({1, 5, 4, 8}),
                        .k = tensor({1, 5, 2, 8}),
                        .lse = tensor({1, 5, 4}),
                        .scale = 1,
                        .sink_tokens = 4};
  CHECK_THROWS_WITH(validate(p), "attention_divergence: sparse is [1, 5, 2, 8], expected [1, 5, 4, 8]");
  p.sparse = p.full;
  CHECK_NOTHROW(validate(p));
  p.sink_tokens = 0;
  CHECK_THROWS_WITH(validate(p), "attention_divergence: sink_tokens 0, expected at least 1");
}

TEST_CASE("attention_divergence on CUDA agrees with the CPU") {
  if (skip_without_gpu()) return;
  for (const AttentionDivergenceCase& c : kAttentionDivergenceCases) {
    INFO(c.to_string());
    const AttentionDivergenceInputs in(c);
    const Values lse = dense_causal(c, in).lse;
    check_cuda([&](OpRunner& run) { return run_attention_divergence(run, c, in, lse); });
  }
}
