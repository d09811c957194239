#include "ops/fp8_cases.h"
#include "ops/rmsnorm_cases.h"
#include "support/skip_without_fp8.h"

using namespace ssa;
using namespace ssa::test;

namespace {

/// One to 16 CTAs per cluster, idle ones among them, tokens that fill no block, a row that is too wide for clusters.
const std::vector<RmsNormCase> kFp8Cases = {{16, 128, false},  {144, 256, true},  {48, 384, true},  {272, 768, true},
                                            {128, 1024, true}, {144, 2048, true}, {16, 8320, false}};

/// Whether `fp8` has the bits that quantize_fp8 makes of `x`, or of its transpose.
bool is_rounding_of(OpRunner& run, const Fp8Matrix& fp8, const Tensor& x, bool transposed) {
  const Fp8Matrix want = fp8_output(run, fp8.values.dim(0), fp8.values.dim(1), fp8.blocks);
  quantize_fp8(run.stream(),
               {.plain = transposed ? Fp8Matrix() : want, .transposed = transposed ? want : Fp8Matrix(), .x = x});
  return read_values(run, fp8) == read_values(run, want) && used_scales(run, fp8) == used_scales(run, want);
}

/// With FP8 outputs a GPU adds the squares of a token in another order.
void check_close(const Values& got, const Values& want, Precision precision, double tolerance) {
  if (precision == Precision::cuda)
    CHECK(relative_error(got, want) <= tolerance);
  else
    CHECK((got == want));
}

/// The norm with FP8 outputs against quantize_fp8 of its output, and against the norm without.
void check_norm_both_ways(Precision precision) {
  for (const RmsNormCase& c : kFp8Cases) {
    CAPTURE(c.M, c.H, c.delta);
    const RmsNormInputs in(c);
    OpRunner run(precision);
    const Outputs plain = run_rmsnorm_forward(run, c, in);
    struct Written {
      Tensor out, rstd, residual;
      Fp8Matrix fp8, fp8_t;
    };
    const auto write = [&](bool with_out, bool transposed) {
      const Written w{.out = with_out ? run.act_output({c.M, c.H}) : Tensor(),
                      .rstd = run.f32_output({c.M}),
                      .residual = c.delta ? run.act_output({c.M, c.H}) : Tensor(),
                      .fp8 = fp8_output(run, c.M, c.H, Fp8Blocks::row),
                      .fp8_t = transposed ? fp8_output(run, c.H, c.M, Fp8Blocks::row) : Fp8Matrix()};
      rmsnorm_forward(run.stream(), {.out = w.out,
                                     .rstd = w.rstd,
                                     .residual = w.residual,
                                     .x = run.act_input(in.x, {c.M, c.H}),
                                     .delta = c.delta ? run.act_input(in.delta, {c.M, c.H}) : Tensor(),
                                     .weight = run.act_input(in.weight, {c.H}),
                                     .eps = 1e-5f,
                                     .fp8 = w.fp8,
                                     .fp8_t = w.fp8_t});
      return w;
    };
    const Written both = write(true, true);
    check_close(run.read(both.rstd), output(plain, "rstd"), precision, 1e-6);  // f32 sums of up to 8320 squares
    check_close(run.read(both.out), output(plain, "out"), precision, 1e-3);    // few values round the other way
    if (c.delta) CHECK((run.read(both.residual) == output(plain, "residual")));
    CHECK(is_rounding_of(run, both.fp8, both.out, false));
    CHECK(is_rounding_of(run, both.fp8_t, both.out, true));

    // Fewer outputs change no bit of the others.
    const Written no_out = write(false, true), no_transpose = write(true, false);
    for (const Written* other : {&no_out, &no_transpose}) {
      CAPTURE(other == &no_out);
      CHECK((run.read(other->rstd) == run.read(both.rstd)));
      if (c.delta) CHECK((run.read(other->residual) == run.read(both.residual)));
      if (other->out) CHECK((run.read(other->out) == run.read(both.out)));
      CHECK(is_rounding_of(run, other->fp8, both.out, false));
      if (other->fp8_t) CHECK(is_rounding_of(run, other->fp8_t, both.out, true));
    }
  }
}

struct BackwardFp8 {
  Tensor d_residual, d_weight;
  Fp8Matrix fp8, fp8_t;
};

BackwardFp8 run_backward_fp8(OpRunner& run, const RmsNormCase& c, const RmsNormInputs& in, const Values& rstd) {
  const BackwardFp8 w{.d_residual = run.act_input(in.d_residual, {c.M, c.H}),
                      .d_weight = run.f32_input(in.d_weight, {c.H}),
                      .fp8 = fp8_output(run, c.M, c.H, Fp8Blocks::row),
                      .fp8_t = fp8_output(run, c.H, c.M, Fp8Blocks::square)};
  rmsnorm_backward(run.stream(), {.d_residual = w.d_residual,
                                  .d_weight = w.d_weight,
                                  .d_out = run.act_input(in.d_out, {c.M, c.H}),
                                  .residual = run.act_input(in.x, {c.M, c.H}),
                                  .rstd = run.f32_input(rstd, {c.M}),
                                  .weight = run.act_input(in.weight, {c.H}),
                                  .fp8 = w.fp8,
                                  .fp8_t = w.fp8_t});
  return w;
}

Values rstd_of(const RmsNormCase& c, const RmsNormInputs& in) {
  OpRunner exact(Precision::exact);
  return output(run_rmsnorm_forward(exact, {c.M, c.H, false}, in), "rstd");
}

/// The backward's FP8 against quantize_fp8 of the gradient that it leaves.
void check_backward_rounding(Precision precision) {
  std::vector<RmsNormCase> cases = kFp8Cases;
  cases.push_back({32, 48, false});  // no whole block
  for (const RmsNormCase& c : cases) {
    CAPTURE(c.M, c.H);
    const RmsNormInputs in(c);
    OpRunner run(precision);
    const BackwardFp8 w = run_backward_fp8(run, c, in, rstd_of(c, in));
    CHECK(is_rounding_of(run, w.fp8, w.d_residual, false));
    CHECK(is_rounding_of(run, w.fp8_t, w.d_residual, true));
  }
}

}  // namespace

TEST_CASE("rmsnorm writes the FP8 that quantize_fp8 makes of its output, to the bit") {
  check_norm_both_ways(Precision::f32);
}

TEST_CASE("rmsnorm on CUDA writes the FP8 that quantize_fp8 makes of its output, to the bit") {
  if (skip_without_gpu()) return;
  check_norm_both_ways(Precision::cuda);
}

TEST_CASE("rmsnorm backward writes the FP8 that quantize_fp8 makes of the gradient, to the bit") {
  check_backward_rounding(Precision::f32);
  for (const RmsNormCase& c : kFp8Cases) {
    CAPTURE(c.M, c.H);
    const RmsNormInputs in(c);
    OpRunner run(Precision::f32);
    const Values rstd = rstd_of(c, in);
    const Outputs plain = run_rmsnorm_backward(run, c, in, rstd);
    const BackwardFp8 w = run_backward_fp8(run, c, in, rstd);
    CHECK((run.read(w.d_residual) == output(plain, "d_residual")));
    CHECK((run.read(w.d_weight) == output(plain, "d_weight")));
  }
}

TEST_CASE("rmsnorm backward on CUDA writes the FP8 that quantize_fp8 makes of the gradient, to the bit") {
  if (skip_without_fp8()) return;
  check_backward_rounding(Precision::cuda);
}

TEST_CASE("rmsnorm backward with FP8 outputs on CUDA agrees with the CPU") {
  if (skip_without_fp8()) return;
  for (const RmsNormCase& c : kFp8Cases) {
    CAPTURE(c.M, c.H);
    const RmsNormInputs in(c);
    const Values rstd = rstd_of(c, in);
    check_cuda([&](OpRunner& run) -> Outputs {
      const BackwardFp8 w = run_backward_fp8(run, c, in, rstd);
      return {{"d_residual", run.read(w.d_residual)}, {"d_weight", run.read(w.d_weight)}};
    });
  }
}

TEST_CASE("rmsnorm backward with FP8 outputs on CUDA takes more tokens than its clusters take at a time") {
  if (skip_without_fp8()) return;
  // At most 2 CTAs run on an SM at a time: with 132 SMs and 16, 2 and 1 CTAs per cluster 16, 132 and 264 clusters, so
  // at least 5, 3 and 2 turns of 128 tokens, the last one not for all clusters. 7 of the 16 CTAs are idle.
  for (const RmsNormCase& c : std::vector<RmsNormCase>{{8336, 1152, false}, {33808, 256, false}, {33936, 128, false}}) {
    CAPTURE(c.M, c.H);
    const RmsNormInputs in(c);
    const Values rstd = rstd_of(c, in);
    OpRunner run(Precision::cuda);
    const BackwardFp8 w = run_backward_fp8(run, c, in, rstd);
    CHECK(is_rounding_of(run, w.fp8, w.d_residual, false));
    CHECK(is_rounding_of(run, w.fp8_t, w.d_residual, true));
    check_cuda([&](OpRunner& checked) -> Outputs {
      const BackwardFp8 got = run_backward_fp8(checked, c, in, rstd);
      return {{"d_residual", checked.read(got.d_residual)}, {"d_weight", checked.read(got.d_weight)}};
    });
  }
}

TEST_CASE("rmsnorm refuses an FP8 output that does not fit") {
  OpRunner run(Precision::f32);
  CHECK_THROWS_WITH(rmsnorm_forward(run.stream(), {.out = run.act_output({16, 64}),
                                                   .rstd = run.f32_output({16}),
                                                   .x = run.act_output({16, 64}),
                                                   .weight = run.act_output({64}),
                                                   .eps = 1e-5f,
                                                   .fp8 = fp8_output(run, 16, 64, Fp8Blocks::row)}),
                    "rmsnorm_forward: H is 64, expected a multiple of 128 with FP8, and row blocks");
  CHECK_THROWS_WITH(rmsnorm_forward(run.stream(), {.rstd = run.f32_output({16}),
                                                   .x = run.act_output({16, 128}),
                                                   .weight = run.act_output({128}),
                                                   .eps = 1e-5f,
                                                   .fp8 = fp8_output(run, 16, 128, Fp8Blocks::row)}),
                    "rmsnorm_forward: out is missing, expected [16, 128]");
  CHECK_THROWS_WITH(rmsnorm_forward(run.stream(), {.rstd = run.f32_output({16}),
                                                   .x = run.act_output({16, 128}),
                                                   .weight = run.act_output({128}),
                                                   .eps = 1e-5f,
                                                   .fp8_t = fp8_output(run, 128, 16, Fp8Blocks::row)}),
                    "rmsnorm_forward: fp8 is missing, expected [16, 128]");
  const auto backward = [&](const Fp8Matrix& fp8, const Fp8Matrix& fp8_t) {
    rmsnorm_backward(run.stream(), {.d_residual = run.act_output({16, 128}),
                                    .d_weight = run.f32_output({128}),
                                    .d_out = run.act_output({16, 128}),
                                    .residual = run.act_output({16, 128}),
                                    .rstd = run.f32_output({16}),
                                    .weight = run.act_output({128}),
                                    .fp8 = fp8,
                                    .fp8_t = fp8_t});
  };
  const Fp8Matrix rows = fp8_output(run, 16, 128, Fp8Blocks::row), rows_t = fp8_output(run, 128, 16, Fp8Blocks::row);
  CHECK_THROWS_WITH(backward(rows, {}), "rmsnorm_backward: fp8_t is missing, expected [128, 16]");
  CHECK_THROWS_WITH(backward(rows, rows_t),
                    "rmsnorm_backward: fp8 and fp8_t have other blocks, expected row blocks and square blocks");
}
