#include "ops/attention_stats_cases.h"

#include "support/dense_attention.h"

using namespace ssa;
using namespace ssa::test;

namespace {

DenseAttention dense_causal(const AttentionStatsCase& c, const AttentionStatsInputs& in) {
  return dense_attention(c.dims, c.dims.T, in.q, in.k, in.k,
                         [&](auto b, auto t, auto, auto u) { return piece_begin(c.begins, b, t) <= u && u <= t; });
}

}  // namespace

TEST_CASE("attention_stats sums the mass and the entropy of dense probabilities") {
  for (const AttentionStatsCase& c : reference_cases(kAttentionStatsCases)) {
    INFO(c.to_string());
    const AttentionStatsInputs in(c);
    const DenseAttention dense = dense_causal(c, in);
    const SelectionMask selected(c.dims, c.block_size, in.indices);
    Values mass = in.selected_mass, entropy = in.entropy;
    const std::int64_t T = c.dims.T, HQ = c.dims.HQ();
    for (std::int64_t row = 0; row < c.dims.B * T * HQ; ++row)
      for (std::int64_t u = 0; u < T; ++u) {
        const double p = dense.probability[row * T + u];
        if (selected(row / HQ / T, row / HQ % T, row % HQ / c.dims.G, u)) mass[row % HQ] += p;
        if (p > 0) entropy[row % HQ] -= p * std::log(p);
      }
    OpRunner exact(Precision::exact), f32(Precision::f32);
    const Outputs got = run_attention_stats(exact, c, in, dense.lse),
                  got_f32 = run_attention_stats(f32, c, in, dense.lse);
    CHECK(relative_error(output(got, "selected_mass"), mass) < 1e-12);
    CHECK(relative_error(output(got, "entropy"), entropy) < 1e-12);
    // A score in f32 has a relative error of about 1e-7.
    CHECK(relative_error(output(got_f32, "selected_mass"), mass) < 2e-6);
    CHECK(relative_error(output(got_f32, "entropy"), entropy) < 2e-6);
  }
}

TEST_CASE("attention_stats: the selected mass is 1 when every block is selected") {
  const AttentionStatsCase c{{2, 31, 2, 3, 8}, 4, 8};
  AttentionStatsInputs in(c);
  in.selected_mass.assign(in.selected_mass.size(), 0.0);
  OpRunner run(Precision::exact);
  const double positions = static_cast<double>(c.dims.B * c.dims.T);
  const Outputs stats = run_attention_stats(run, c, in, dense_causal(c, in).lse);
  for (const double mass : output(stats, "selected_mass")) CHECK(std::abs(mass / positions - 1) < 1e-12);
}

TEST_CASE("attention_stats: the entropy of uniform attention is the logarithm of the number of tokens") {
  const AttentionStatsCase c{{1, 9, 1, 2, 8}, 4, 1};
  AttentionStatsInputs in(c);
  in.q.assign(in.q.size(), 0.0);
  in.entropy.assign(in.entropy.size(), 0.0);
  double want = 0;
  for (int t = 0; t < 9; ++t) want += std::log(t + 1.0);
  OpRunner run(Precision::exact);
  const Outputs stats = run_attention_stats(run, c, in, dense_causal(c, in).lse);
  for (const double entropy : output(stats, "entropy")) CHECK(std::abs(entropy - want) < 1e-12);
}

TEST_CASE("attention_stats names the tensor that does not fit") {
  OpRunner run(Precision::f32);
  const auto tensor = [&](Shape shape) { return run.act_output(shape); };
  AttentionStats p{.selected_mass = run.f64_input(Values(4, 0.0), {4}),
                   .entropy = run.f64_input(Values(2, 0.0), {2}),
                   .q = tensor({1, 5, 4, 8}),
                   .k = tensor({1, 5, 2, 8}),
                   .lse = tensor({1, 5, 4}),
                   .indices = run.i32_output({1, 5, 2, 3}),
                   .scale = 1,
                   .block_size = 2};
  CHECK_THROWS_WITH(validate(p), "attention_stats: entropy is [2], expected [4]");
  p.entropy = p.selected_mass;
  CHECK_NOTHROW(validate(p));
  p.selected_mass = tensor({4});
  CHECK_THROWS_WITH(validate(p), "attention_stats: selected_mass is f32, expected f64");
}

TEST_CASE("attention_stats on CUDA agrees with the CPU") {
  if (skip_without_gpu()) return;
  for (const AttentionStatsCase& c : kAttentionStatsCases) {
    if (!cuda_supports(c)) continue;
    INFO(c.to_string());
    const AttentionStatsInputs in(c);
    const Values lse = dense_causal(c, in).lse;
    check_cuda([&](OpRunner& run) { return run_attention_stats(run, c, in, lse); });
  }
}
