#include "ops/fp8_cases.h"
#include "ops/qkv_rope_cases.h"

using namespace ssa;
using namespace ssa::test;

namespace {

/// d_qkvg in FP8, once written by the op itself, once by quantize_fp8. Less than a tile; tiles cut in both directions;
/// heads of 16, 64 and 128, with and without block means; then 12, 8, 3 and 1 heads, whose gates end within 16 columns.
/// At last heads that tiles cut, of 48 and 256, and sequences and partial blocks that end within 8 tokens.
void check_rope_both_ways(Precision precision) {
  for (const QkvRopeCase& c : std::vector<QkvRopeCase>{{1, 16, 16, 2, 16, 4, false},
                                                       {3, 48, 16, 2, 64, 16, true},
                                                       {1, 144, 16, 1, 128, 16, true},
                                                       {3, 48, 12, 4, 64, 16, true},
                                                       {1, 144, 8, 2, 16, 16, false},
                                                       {2, 16, 3, 1, 16, 8, true},
                                                       {1, 16, 1, 1, 32, 4, false},
                                                       {1, 144, 2, 1, 48, 16, true},
                                                       {2, 16, 1, 1, 256, 8, true},
                                                       {4, 20, 4, 3, 64, 16, true},
                                                       {4, 36, 6, 2, 32, 3, true}}) {
    CAPTURE(c.B, c.T, c.HQ, c.HK, c.D);
    const QkvRopeInputs in(c);
    OpRunner run(precision);
    const Fp8Matrix written = fp8_output(run, c.M(), c.columns(), Fp8Blocks::row);
    const Fp8Matrix written_t = fp8_output(run, c.columns(), c.M(), Fp8Blocks::square);
    const Fp8Matrix rounded = fp8_output(run, c.M(), c.columns(), Fp8Blocks::row);
    const Fp8Matrix rounded_t = fp8_output(run, c.columns(), c.M(), Fp8Blocks::square);
    Values gates = random_values(c.M() * c.HQ * 3, 9);
    for (double& g : gates) g = 1 / (1 + std::exp(-g));
    const Shape means{c.B, c.N(), c.HK, c.D};
    QkvRopeBackward op{.d_qkvg = run.act_output({c.M(), padded_columns(c.columns())}),
                       .d_q = run.f32_input(in.d_q, {c.B, c.T, c.HQ, c.D}),
                       .d_k = run.f32_input(in.d_k, {c.B, c.T, c.HK, c.D}),
                       .d_v = run.f32_input(in.d_v, {c.B, c.T, c.HK, c.D}),
                       .d_gates = run.f32_input(in.d_gates, {c.B, c.T, c.HQ, 3}),
                       .d_k_mean = c.means ? run.f32_input(in.d_k_mean, means) : Tensor(),
                       .d_v_mean = c.means ? run.f32_input(in.d_v_mean, means) : Tensor(),
                       .gates = run.f32_input(gates, {c.B, c.T, c.HQ, 3}),
                       .positions = run.i32_input(in.positions, {c.B, c.T}),
                       .cos_sin = run.f32_input(in.cos_sin, {7, c.D / 2, 2}),
                       .block_size = c.block_size};
    qkv_rope_backward(run.stream(), op);
    quantize_fp8(run.stream(), {.plain = rounded, .transposed = rounded_t, .x = op.d_qkvg});
    op.d_qkvg = {};
    op.fp8 = written;
    op.fp8_t = written_t;
    qkv_rope_backward(run.stream(), op);
    CHECK((read_values(run, written) == read_values(run, rounded)));
    CHECK((used_scales(run, written) == used_scales(run, rounded)));
    CHECK((read_values(run, written_t) == read_values(run, rounded_t)));
    CHECK((used_scales(run, written_t) == used_scales(run, rounded_t)));

    op.fp8_t = fp8_output(run, c.columns(), c.M(), Fp8Blocks::row);
    CHECK_THROWS_WITH(qkv_rope_backward(run.stream(), op),
                      "qkv_rope_backward: fp8 and fp8_t have other blocks, expected row blocks and square blocks");
    op.d_qkvg = run.act_output({c.M(), c.columns()});
    CHECK_THROWS_WITH(qkv_rope_backward(run.stream(), op),
                      "qkv_rope_backward: d_qkvg and fp8 are given, expected one of them");
  }
}

}  // namespace

TEST_CASE("qkv_rope_backward writes the FP8 that quantize_fp8 makes of its output, to the bit") {
  check_rope_both_ways(Precision::f32);
}

TEST_CASE("qkv_rope_backward on CUDA writes the FP8 that quantize_fp8 makes of its output, to the bit") {
  if (skip_without_gpu()) return;
  check_rope_both_ways(Precision::cuda);
}
