#include "ops/fp8_cases.h"
#include "ops/rmsnorm_cases.h"

using namespace ssa;
using namespace ssa::test;

namespace {

/// rmsnorm's output in FP8, once written by rmsnorm itself, once by quantize_fp8.
void check_norm_both_ways(Precision precision) {
  for (const RmsNormCase& c :
       std::vector<RmsNormCase>{{16, 128, false}, {48, 384, true}, {32, 2048, true}, {16, 8320, false}}) {
    CAPTURE(c.M, c.H, c.delta);
    const RmsNormInputs in(c);
    OpRunner run(precision);
    const Tensor out = run.act_output({c.M, c.H});
    const Fp8Matrix written = fp8_output(run, c.M, c.H, Fp8Blocks::row),
                    rounded = fp8_output(run, c.M, c.H, Fp8Blocks::row),
                    rounded_t = fp8_output(run, c.H, c.M, Fp8Blocks::row);
    RmsNormForward op{.out = out,
                      .rstd = run.f32_output({c.M}),
                      .residual = c.delta ? run.act_output({c.M, c.H}) : Tensor(),
                      .x = run.act_input(in.x, {c.M, c.H}),
                      .delta = c.delta ? run.act_input(in.delta, {c.M, c.H}) : Tensor(),
                      .weight = run.act_input(in.weight, {c.H}),
                      .eps = 1e-5f,
                      .fp8 = written};
    rmsnorm_forward(run.stream(), op);
    quantize_fp8(run.stream(), {.plain = rounded, .transposed = rounded_t, .x = out});
    CHECK((run.read(out) == output(run_rmsnorm_forward(run, c, in), "out")));
    CHECK((read_values(run, written) == read_values(run, rounded)));
    CHECK((read_scales(run, written) == read_scales(run, rounded)));

    // With the transpose, and without or with the output in act.
    const Values rstd = run.read(op.rstd), residual = c.delta ? run.read(op.residual) : Values();
    for (const bool with_out : {false, true}) {
      CAPTURE(with_out);
      op.out = with_out ? run.act_output({c.M, c.H}) : Tensor();
      op.rstd = run.f32_output({c.M});
      if (c.delta) op.residual = run.act_output({c.M, c.H});
      op.fp8 = fp8_output(run, c.M, c.H, Fp8Blocks::row);
      op.fp8_t = fp8_output(run, c.H, c.M, Fp8Blocks::row);
      rmsnorm_forward(run.stream(), op);
      if (with_out) CHECK((run.read(op.out) == run.read(out)));
      CHECK((run.read(op.rstd) == rstd));
      if (c.delta) CHECK((run.read(op.residual) == residual));
      CHECK((read_values(run, op.fp8) == read_values(run, rounded)));
      CHECK((read_scales(run, op.fp8) == read_scales(run, rounded)));
      CHECK((read_values(run, op.fp8_t) == read_values(run, rounded_t)));
      CHECK((read_scales(run, op.fp8_t) == read_scales(run, rounded_t)));
    }
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
}
