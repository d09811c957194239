#include "ops/append_kv_cases.h"

#include "support/catch.h"

using namespace ssa;
using namespace ssa::test;

TEST_CASE("append_kv writes the new tokens and the means of the blocks they complete, and nothing else") {
  for (const AppendKvCase& c : kAppendKvCases) {
    INFO(c.to_string());
    OpRunner run(Precision::exact);
    const Outputs got = run_append_kv(run, c);
    const std::int64_t width = c.HK * c.D, N = c.mean_shape()[1];
    for (const bool keys : {true, false}) {
      Values cache = random_values(c.cache_shape().count(), keys ? 1 : 2);
      Values mean = random_values(c.mean_shape().count(), keys ? 3 : 4);
      const Values added = random_values(c.new_shape().count(), keys ? 5 : 6);
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

TEST_CASE("append_kv names the tensor that does not fit") {
  OpRunner run(Precision::f32);
  AppendKv p{.k_cache = run.act_output({2, 9, 2, 8}),
             .v_cache = run.act_output({2, 9, 2, 8}),
             .k_mean = run.act_output({2, 2, 2, 8}),
             .k = run.act_output({2, 1, 2, 8}),
             .v = run.act_output({2, 1, 2, 8}),
             .positions = run.i32_output({2, 1}),
             .block_size = 4};
  CHECK_THROWS_WITH(validate(p), "append_kv: k_mean is [2, 2, 2, 8], expected [2, 3, 2, 8]");
  p.k_mean = {};
  CHECK_NOTHROW(validate(p));
  p.v_cache = run.act_output({2, 8, 2, 8});
  CHECK_THROWS_WITH(validate(p), "append_kv: v_cache is [2, 8, 2, 8], expected [2, 9, 2, 8]");
  p.block_size = 0;
  CHECK_THROWS_WITH(validate(p), "append_kv: block_size 0, expected at least 1");
}

TEST_CASE("append_kv on CUDA agrees with the CPU") {
  if (skip_without_gpu()) return;
  for (const AppendKvCase& c : kAppendKvCases) {
    INFO(c.to_string());
    check_cuda([&](OpRunner& run) { return run_append_kv(run, c); });
  }
}
