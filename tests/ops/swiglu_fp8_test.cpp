#include "ops/fp8_cases.h"
#include "ops/swiglu_cases.h"
#include "support/skip_without_fp8.h"

using namespace ssa;
using namespace ssa::test;

namespace {

/// Tokens and columns: one tile, more than one, the last tile of tokens cut.
const std::vector<Fp8Shape> kShapes = {{128, 128}, {272, 256}, {16, 384}};
/// On CUDA also more tiles than CTAs, each of which takes several; the last tiles of tokens are cut.
const std::vector<Fp8Shape> kCudaShapes = {{128, 128}, {272, 256}, {16, 384}, {2576, 2048}};

/// swiglu's outputs in FP8, once written by swiglu itself, once by quantize_fp8 from its other outputs.
struct BothWays {
  std::vector<Values> written, rounded;
};

BothWays both_ways(Precision precision, const Fp8Shape& shape, bool write_out) {
  const auto [M, F] = shape;
  const SwigluInputs in({M, F, false, write_out});
  OpRunner run(precision);
  const Tensor gate_up = run.act_input(in.gate_up, {M, 2 * F}), d_out = run.act_input(in.d_out, {M, F});
  const auto values = [&](const Fp8Matrix& m) { return std::vector<Values>{read_values(run, m), used_scales(run, m)}; };
  BothWays both;
  const auto add = [&](std::vector<Values>& to, std::vector<Values> more) {
    to.insert(to.end(), more.begin(), more.end());
  };

  const Tensor out = run.act_output({M, F}), out_fp8 = run.act_output({M, F});
  const Fp8Matrix want = fp8_output(run, M, F, Fp8Blocks::row), want_t = fp8_output(run, F, M, Fp8Blocks::row);
  swiglu_forward(run.stream(), {.out = out, .gate_up = gate_up});
  quantize_fp8(run.stream(), {.plain = want, .transposed = want_t, .x = out});
  for (const bool plain : {true, false})
    for (const bool transposed : {true, false}) {
      if (!plain && !transposed) continue;
      const Fp8Matrix fp8 = plain ? fp8_output(run, M, F, Fp8Blocks::row) : Fp8Matrix();
      const Fp8Matrix fp8_t = transposed ? fp8_output(run, F, M, Fp8Blocks::row) : Fp8Matrix();
      const Tensor to = write_out ? out_fp8 : Tensor();
      swiglu_forward(run.stream(), {.out = to, .fp8 = fp8, .fp8_t = fp8_t, .gate_up = gate_up});
      if (write_out) {
        both.written.push_back(run.read(out_fp8));
        both.rounded.push_back(run.read(out));
      }
      if (plain) {
        add(both.written, values(fp8));
        add(both.rounded, values(want));
      }
      if (transposed) {
        add(both.written, values(fp8_t));
        add(both.rounded, values(want_t));
      }
    }

  const Tensor d_gate_up = run.act_output({M, 2 * F}), again = run.act_output({M, F}),
               again_fp8 = run.act_output({M, F});
  const Fp8Matrix d = fp8_output(run, M, 2 * F, Fp8Blocks::row), d_t = fp8_output(run, 2 * F, M, Fp8Blocks::square);
  const Fp8Matrix want_d = fp8_output(run, M, 2 * F, Fp8Blocks::row);
  const Fp8Matrix want_d_t = fp8_output(run, 2 * F, M, Fp8Blocks::square);
  swiglu_backward(run.stream(), {.d_gate_up = d_gate_up, .out = again, .d_out = d_out, .gate_up = gate_up});
  quantize_fp8(run.stream(), {.plain = want_d, .transposed = want_d_t, .x = d_gate_up});
  swiglu_backward(
      run.stream(),
      {.fp8 = d, .fp8_t = d_t, .out = write_out ? again_fp8 : Tensor(), .d_out = d_out, .gate_up = gate_up});
  if (write_out) {
    both.written.push_back(run.read(again_fp8));
    both.rounded.push_back(run.read(again));
  }
  for (const Fp8Matrix& m : {d, d_t}) add(both.written, values(m));
  for (const Fp8Matrix& m : {want_d, want_d_t}) add(both.rounded, values(m));
  return both;
}

}  // namespace

TEST_CASE("swiglu writes the FP8 that quantize_fp8 makes of its output, to the bit") {
  for (const Fp8Shape& shape : kShapes)
    for (const bool write_out : {false, true}) {
      CAPTURE(shape.rows, shape.columns, write_out);
      const BothWays both = both_ways(Precision::f32, shape, write_out);
      CHECK((both.written == both.rounded));
    }
}

TEST_CASE("swiglu on CUDA writes the FP8 that quantize_fp8 makes of its output, to the bit") {
  if (skip_without_fp8()) return;
  for (const Fp8Shape& shape : kCudaShapes)
    for (const bool write_out : {false, true}) {
      CAPTURE(shape.rows, shape.columns, write_out);
      const BothWays both = both_ways(Precision::cuda, shape, write_out);
      CHECK((both.written == both.rounded));
    }
}

TEST_CASE("swiglu refuses FP8 outputs that do not fit") {
  OpRunner run(Precision::f32);
  CHECK_THROWS_WITH(swiglu_forward(run.stream(), {.out = run.act_output({16, 64}),
                                                  .fp8 = fp8_output(run, 16, 64, Fp8Blocks::row),
                                                  .gate_up = run.act_output({16, 128})}),
                    "swiglu_forward: F is 64, expected a multiple of 128 with FP8");
  CHECK_THROWS_WITH(swiglu_forward(run.stream(), {.gate_up = run.act_output({16, 128})}), "swiglu_forward: no output");
  CHECK_THROWS_WITH(swiglu_forward(run.stream(), {.fp8_t = fp8_output(run, 16, 128, Fp8Blocks::row),
                                                  .gate_up = run.act_output({16, 256})}),
                    "swiglu_forward: fp8_t is [16, 128], expected [128, 16]");
  CHECK_THROWS_WITH(swiglu_backward(run.stream(), {.fp8 = fp8_output(run, 16, 256, Fp8Blocks::row),
                                                   .d_out = run.act_output({16, 128}),
                                                   .gate_up = run.act_output({16, 256})}),
                    "swiglu_backward: fp8_t is missing, expected [256, 16]");
  CHECK_THROWS_WITH(swiglu_backward(run.stream(), {.d_gate_up = run.act_output({16, 256}),
                                                   .fp8 = fp8_output(run, 16, 256, Fp8Blocks::row),
                                                   .fp8_t = fp8_output(run, 256, 16, Fp8Blocks::square),
                                                   .d_out = run.act_output({16, 128}),
                                                   .gate_up = run.act_output({16, 256})}),
                    "swiglu_backward: d_gate_up and fp8 are given, expected one of them");
  CHECK_THROWS_WITH(swiglu_backward(run.stream(), {.fp8 = fp8_output(run, 16, 256, Fp8Blocks::row),
                                                   .fp8_t = fp8_output(run, 256, 16, Fp8Blocks::row),
                                                   .d_out = run.act_output({16, 128}),
                                                   .gate_up = run.act_output({16, 256})}),
                    "swiglu_backward: fp8 and fp8_t have other blocks, expected row blocks and square blocks");
}
