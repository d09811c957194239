#include "ops/fused_linear_cases.h"

#include <cmath>

#include "kernels/matmul/matmul.h"
#include "kernels/rmsnorm/rmsnorm.h"
#include "kernels/swiglu/swiglu.h"
#include "support/catch.h"

using namespace ssa;
using namespace ssa::test;

namespace {

Values by_loops(const FusedLinearCase& c, const FusedLinearInputs& in) {
  Values x = in.x, y;
  for (std::int64_t m = 0; m < c.M && c.norm; ++m) {
    double squares = 0;
    for (std::int64_t k = 0; k < c.K; ++k) squares += x[m * c.K + k] * x[m * c.K + k];
    for (std::int64_t k = 0; k < c.K; ++k)
      x[m * c.K + k] *= in.norm_weight[k] / std::sqrt(squares / static_cast<double>(c.K) + double{1e-5f});
  }
  for (std::int64_t m = 0; m < c.M; ++m)
    for (std::int64_t n = 0; n < c.N; ++n) {
      double sum = 0;
      for (std::int64_t k = 0; k < c.K; ++k) sum += x[m * c.K + k] * in.w[n * c.K + k];
      y.push_back(c.residual ? in.residual[m * c.N + n] + sum : sum);
    }
  if (!c.swiglu) return y;
  Values out;
  for (std::int64_t m = 0; m < c.M; ++m)
    for (std::int64_t f = 0; f < c.N / 2; ++f) {
      const double gate = y[m * c.N + f], up = y[m * c.N + c.N / 2 + f];
      out.push_back(gate / (1 + std::exp(-gate)) * up);
    }
  return out;
}

Values by_single_ops(OpRunner& run, const FusedLinearCase& c, const FusedLinearInputs& in) {
  Tensor x = run.act_input(in.x, {c.M, c.K});
  if (c.norm) {
    const Tensor n = run.act_output({c.M, c.K}), weight = run.act_input(in.norm_weight, {c.K});
    rmsnorm_forward(run.stream(), {.out = n, .rstd = run.f32_output({c.M}), .x = x, .weight = weight, .eps = 1e-5f});
    x = n;
  }
  const Tensor y = run.act_output({c.M, c.N}), w = run.act_input(in.w, {c.N, c.K});
  matmul(run.stream(), {.out = y, .a = x, .b = w, .transpose_b = true});
  const Tensor out = run.act_output(c.out_shape());
  if (c.swiglu) swiglu_forward(run.stream(), {.out = out, .gate_up = y});
  Values result = run.read(c.swiglu ? out : y);
  const Values residual = run.read(run.act_input(in.residual, {c.M, c.N}));
  for (std::size_t i = 0; c.residual && i < result.size(); ++i)
    result[i] = static_cast<float>(bfloat16(static_cast<float>(residual[i] + result[i])));
  return result;
}

}  // namespace

TEST_CASE("fused_linear is a product with the norm before it, and swiglu or the residual after it") {
  for (const FusedLinearCase& c : kFusedLinearCases) {
    INFO(c.to_string());
    const FusedLinearInputs in(c);
    OpRunner exact(Precision::exact);
    CHECK(relative_error(output(run_fused_linear(exact, c, in), "out"), by_loops(c, in)) < 1e-13);
  }
}

TEST_CASE("fused_linear in f32 agrees with f64") {
  for (const FusedLinearCase& c : kFusedLinearCases) {
    INFO(c.to_string());
    const FusedLinearInputs in(c);
    check_f32([&](OpRunner& run) { return run_fused_linear(run, c, in); });
  }
}

TEST_CASE("fused_linear names the tensor or option that does not fit") {
  OpRunner run(Precision::f32);
  const FusedLinear good{.out = run.act_output({3, 6}), .x = run.act_output({3, 4}), .w = run.act_output({6, 4})};
  CHECK_NOTHROW(validate(good));
  FusedLinear p = good;
  p.norm_weight = run.act_output({6});
  CHECK_THROWS_WITH(validate(p), "fused_linear: norm_weight is [6], expected [4]");
  p = good;
  p.swiglu = true;
  CHECK_THROWS_WITH(validate(p), "fused_linear: out is [3, 6], expected [3, 3]");
  p.residual = run.act_output({3, 6});
  CHECK_THROWS_WITH(validate(p), "fused_linear: both swiglu and residual, expected at most one of them");
  p = good;
  p.swiglu = true;
  p.w = run.act_output({5, 4});
  CHECK_THROWS_WITH(validate(p), "fused_linear: w has 5 rows, expected an even number with swiglu");
  p = good;
  p.residual = run.act_output({6, 3});
  CHECK_THROWS_WITH(validate(p), "fused_linear: residual is [6, 3], expected [3, 6]");
}

TEST_CASE("fused_linear on CUDA agrees with the CPU") {
  if (skip_without_gpu()) return;
  for (const FusedLinearCase& c : kFusedLinearCases) {
    INFO(c.to_string());
    const FusedLinearInputs in(c);
    // The op rounds n, and y or gate and up, to bf16, which the CPU does not: 2^-9 each.
    const int roundings = c.norm + 2 * c.swiglu + c.residual;
    check_cuda([&](OpRunner& run) { return run_fused_linear(run, c, in); }, 1e-5 + roundings / 512.0);
  }
}

TEST_CASE("fused_linear on CUDA is rmsnorm, matmul, and swiglu or the sum with the residual") {
  if (skip_without_gpu()) return;
  for (const FusedLinearCase& c : kFusedLinearCases) {
    if (c.out_f32) continue;
    INFO(c.to_string());
    const FusedLinearInputs in(c);
    OpRunner run(Precision::cuda);
    const Values got = output(run_fused_linear(run, c, in), "out");
    // Sums in another order round some values of n, y, gate and up differently, each by 2^-8 of itself: a part of them.
    CHECK(relative_error(got, by_single_ops(run, c, in)) < 4e-3);
  }
}

TEST_CASE("fused_linear on CUDA gives a row the same bits whatever the number of rows") {
  if (skip_without_gpu()) return;
  for (const bool swiglu : {false, true}) {
    FusedLinearCase all{32, 48, 2048, true, swiglu}, one = all;
    one.M = 1;
    const FusedLinearInputs in(all);
    OpRunner run(Precision::cuda);
    const Values want = output(run_fused_linear(run, all, in), "out");
    const std::int64_t columns = all.out_shape()[1];
    for (std::int64_t row = 0; row < all.M; ++row) {
      FusedLinearInputs alone = in;
      alone.x = Values(in.x.begin() + row * all.K, in.x.begin() + (row + 1) * all.K);
      const Values got = output(run_fused_linear(run, one, alone), "out");
      CHECK(got == Values(want.begin() + row * columns, want.begin() + (row + 1) * columns));
    }
  }
}
