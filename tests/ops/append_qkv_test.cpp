#include "ops/append_qkv_cases.h"

#include "support/catch.h"

using namespace ssa;
using namespace ssa::test;

TEST_CASE("append_qkv writes q, gates, the new tokens and the means of the blocks they complete, and nothing else") {
  for (const AppendQkvCase& c : kAppendQkvCases) {
    INFO(c.to_string());
    OpRunner run(Precision::exact);
    const AppendQkvInputs in(c);
    const Outputs got = run_append_qkv(run, c, in), rotated = run_qkv_rope_of(run, c, in);
    CHECK(output(got, "q") == output(rotated, "q"));
    CHECK(output(got, "gates") == output(rotated, "gates"));
    const std::int64_t width = c.HK * c.D, N = c.mean_shape()[1];
    for (const bool keys : {true, false}) {
      Values cache = keys ? in.k_cache : in.v_cache, mean = keys ? in.k_mean : in.v_mean;
      const Values& added = output(rotated, keys ? "k" : "v");
      for (std::int64_t i = 0; i < c.B * c.T(); ++i) {
        const std::int64_t b = i / c.T(), position = c.positions[static_cast<std::size_t>(i)];
        for (std::int64_t j = 0; j < width; ++j) cache[(b * c.C + position) * width + j] = added[i * width + j];
      }
      for (std::int64_t i = 0; i < c.B * c.T(); ++i) {
        const std::int64_t b = i / c.T(), position = c.positions[static_cast<std::size_t>(i)];
        if (position % c.block_size != c.block_size - 1) continue;
        for (std::int64_t j = 0; j < width; ++j) {
          double& m = mean[(b * N + position / c.block_size) * width + j];
          m = 0;
          for (std::int64_t u = position + 1 - c.block_size; u <= position; ++u)
            m += cache[(b * c.C + u) * width + j] / static_cast<double>(c.block_size);
        }
      }
      CHECK(output(got, keys ? "k_cache" : "v_cache") == cache);
      if (keys ? c.k_mean : c.v_mean) CHECK(relative_error(output(got, keys ? "k_mean" : "v_mean"), mean) < 1e-15);
    }
  }
}

TEST_CASE("append_qkv names the tensor that does not fit") {
  OpRunner run(Precision::f32);
  AppendQkv p{.q = run.act_output({2, 1, 4, 8}),
              .gates = run.f32_output({2, 1, 4, 3}),
              .k_cache = run.act_output({2, 9, 2, 8}),
              .v_cache = run.act_output({2, 9, 2, 8}),
              .k_mean = run.act_output({2, 2, 2, 8}),
              .qkvg = run.act_output({2, 76}),
              .positions = run.i32_output({2, 1}),
              .cos_sin = run.f32_output({9, 4, 2}),
              .block_size = 4};
  CHECK_THROWS_WITH(validate(p), "append_qkv: k_mean is [2, 2, 2, 8], expected [2, 3, 2, 8]");
  p.k_mean = {};
  CHECK_NOTHROW(validate(p));
  p.qkvg = run.act_output({2, 64});
  CHECK_THROWS_WITH(validate(p), "append_qkv: qkvg is [2, 64], expected [2, 76]");
  p.v_cache = run.act_output({2, 8, 2, 8});
  CHECK_THROWS_WITH(validate(p), "append_qkv: v_cache is [2, 8, 2, 8], expected [2, 9, 2, 8]");
  p.block_size = 0;
  CHECK_THROWS_WITH(validate(p), "append_qkv: block_size 0, expected at least 1");
}

TEST_CASE("append_qkv on CUDA agrees with the CPU") {
  if (skip_without_gpu()) return;
  for (const AppendQkvCase& c : kAppendQkvCases) {
    INFO(c.to_string());
    const AppendQkvInputs in(c);
    check_cuda([&](OpRunner& run) { return run_append_qkv(run, c, in); });
    OpRunner run(Precision::cuda);
    CHECK(output(run_append_qkv(run, c, in), "q") == output(run_qkv_rope_of(run, c, in), "q"));
  }
}
