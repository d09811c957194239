#include "ops/fp8_cases.h"
#include "ops/rmsnorm_cases.h"

using namespace ssa;
using namespace ssa::test;

namespace {

/// rmsnorm's output in FP8, once written by rmsnorm itself, once by quantize_fp8.
void check_both_ways(Precision precision) {
  for (const RmsNormCase& c :
       std::vector<RmsNormCase>{{16, 128, false}, {48, 384, true}, {32, 2048, true}, {16, 8320, false}}) {
    CAPTURE(c.M, c.H, c.delta);
    const RmsNormInputs in(c);
    OpRunner run(precision);
    const Tensor out = run.act_output({c.M, c.H});
    const Fp8Matrix written = fp8_output(run, c.M, c.H, Fp8Blocks::row),
                    rounded = fp8_output(run, c.M, c.H, Fp8Blocks::row);
    rmsnorm_forward(run.stream(), {.out = out,
                                   .rstd = run.f32_output({c.M}),
                                   .residual = c.delta ? run.act_output({c.M, c.H}) : Tensor(),
                                   .x = run.act_input(in.x, {c.M, c.H}),
                                   .delta = c.delta ? run.act_input(in.delta, {c.M, c.H}) : Tensor(),
                                   .weight = run.act_input(in.weight, {c.H}),
                                   .eps = 1e-5f,
                                   .fp8 = written});
    quantize_fp8(run.stream(), {.plain = rounded, .x = out});
    CHECK((run.read(out) == output(run_rmsnorm_forward(run, c, in), "out")));
    CHECK((read_values(run, written) == read_values(run, rounded)));
    CHECK((read_scales(run, written) == read_scales(run, rounded)));
  }
}

}  // namespace

TEST_CASE("rmsnorm writes the FP8 that quantize_fp8 makes of its output, to the bit") {
  check_both_ways(Precision::f32);
}

TEST_CASE("rmsnorm on CUDA writes the FP8 that quantize_fp8 makes of its output, to the bit") {
  if (skip_without_gpu()) return;
  check_both_ways(Precision::cuda);
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
}
