#include <algorithm>
#include <cmath>
#include <numeric>

#include "ops/fp8_cases.h"
#include "ops/linear_cross_entropy_cases.h"

using namespace ssa;
using namespace ssa::test;

namespace {

/// One tile and less, cut tiles, the last chunk cut, all targets -100, and vocabularies for clusters of 1, 2 and 8 CTAs
/// and for the kernel that reads rows twice. Then vocabularies that are no multiples of 16: bytes, an odd one, one of
/// less than 16, a multiple of 8, GPT-2's, and one for the kernel that reads rows twice.
const std::vector<LinearCrossEntropyCase> kCases = {
    {16, 16, 16, 16, 0},   {128, 128, 128, 128, 0}, {144, 144, 272, 128, 5}, {48, 32, 272, 32, 3},
    {16, 16, 48, 16, 1},   {32, 16, 16400, 32, 4},  {16, 16, 65552, 16, 0},  {16, 16, 131088, 16, 3},
    {64, 144, 528, 48, 0}, {32, 48, 64, 64, 0},     {48, 32, 257, 32, 3},    {160, 128, 143, 144, 4},
    {32, 16, 11, 16, 0},   {32, 16, 248, 32, 2},    {16, 16, 50257, 16, 5},  {16, 16, 131075, 16, 3}};

/// With rows of logits as FP8 products write them.
Tensor logits_of(OpRunner& run, const LinearCrossEntropyCase& c) { return run.act_output({c.chunk, fp8_padded(c.V)}); }

struct Fp8Run {
  Outputs outputs;
  LinearCrossEntropyFp8 operands;
};

/// Buffers for the hidden states of one chunk.
LinearCrossEntropyFp8 operands_of(OpRunner& run, const LinearCrossEntropyCase& c) {
  return {.hidden = fp8_buffer(run, c.chunk, c.H, Fp8Blocks::row),
          .hidden_t = fp8_buffer(run, c.H, c.chunk, Fp8Blocks::square),
          .weight = fp8_buffer(run, c.V, c.H, Fp8Blocks::square),
          .weight_t = fp8_buffer(run, c.H, c.V, Fp8Blocks::square),
          .d_logits = fp8_buffer(run, c.chunk, c.V, Fp8Blocks::row),
          .d_logits_t = fp8_buffer(run, c.V, c.chunk, Fp8Blocks::row)};
}

Fp8Run run_fp8(OpRunner& run, const LinearCrossEntropyCase& c, const LinearCrossEntropyInputs& in,
               bool accumulate = false) {
  const LinearCrossEntropyFp8 operands = operands_of(run, c);
  return {.outputs = run_linear_cross_entropy(run, c, in, accumulate, &operands, logits_of(run, c)),
          .operands = operands};
}

/// rows [M, K] @ columns [N, K]^T in float64.
Values product(const Values& rows, const Values& columns, std::int64_t K) {
  const std::size_t M = rows.size() / static_cast<std::size_t>(K), N = columns.size() / static_cast<std::size_t>(K);
  Values out(M * N);
  for (std::size_t m = 0; m < M; ++m)
    for (std::size_t n = 0; n < N; ++n) {
      const double* row = rows.data() + m * static_cast<std::size_t>(K);
      out[m * N + n] = std::inner_product(row, row + K, columns.data() + n * static_cast<std::size_t>(K), 0.0);
    }
  return out;
}

/// x [rows, columns], or its transpose, as its FP8 codes stand for it.
Values rounded(const Values& x, std::int64_t rows, std::int64_t columns, Fp8Blocks blocks, bool transposed = false) {
  OpRunner run(Precision::exact);
  return dequantized(run, fp8_input(run, x, rows, columns, blocks, transposed));
}

Values part_of(const Values& x, std::int64_t begin, std::int64_t end) { return {x.begin() + begin, x.begin() + end}; }

/// The op from its definition in float64, with the operands rounded chunk by chunk.
Outputs by_definition(const LinearCrossEntropyCase& c, const LinearCrossEntropyInputs& in) {
  Values losses, d_hidden, d_weight(static_cast<std::size_t>(c.V * c.H));
  const Values w = rounded(in.weight, c.V, c.H, Fp8Blocks::square);
  const Values w_t = rounded(in.weight, c.V, c.H, Fp8Blocks::square, true);
  for (std::int64_t begin = 0; begin < c.M; begin += c.chunk) {
    const std::int64_t end = std::min(begin + c.chunk, c.M), tokens = end - begin;
    const Values x = part_of(in.hidden, begin * c.H, end * c.H);
    Values d = product(rounded(x, tokens, c.H, Fp8Blocks::row), w, c.H);  // logits
    for (std::int64_t m = 0; m < tokens; ++m) {
      const std::int32_t target = in.targets[static_cast<std::size_t>(begin + m)];
      double* row = d.data() + m * c.V;
      double sum = 0;
      for (std::int64_t v = 0; v < c.V; ++v) sum += std::exp(row[v]);
      losses.push_back(target == -100 ? 0 : std::log(sum) - row[target]);
      for (std::int64_t v = 0; v < c.V; ++v)
        row[v] = target == -100 ? 0
                                : static_cast<double>(in.gradient_scale) *
                                      (std::exp(row[v]) / sum - (v == static_cast<std::int64_t>(target) ? 1 : 0));
    }
    const Values d_x = product(rounded(d, tokens, c.V, Fp8Blocks::row), w_t, c.V);
    d_hidden.insert(d_hidden.end(), d_x.begin(), d_x.end());
    const Values d_w = product(rounded(d, tokens, c.V, Fp8Blocks::row, true),
                               rounded(x, tokens, c.H, Fp8Blocks::square, true), tokens);
    for (std::size_t i = 0; i < d_w.size(); ++i) d_weight[i] += d_w[i];
  }
  return {{"losses", losses}, {"d_hidden", d_hidden}, {"d_weight", d_weight}};
}

double sum_of_losses(const LinearCrossEntropyCase& c, const LinearCrossEntropyInputs& in) {
  auto without = c;
  without.gradients = false;
  OpRunner run(Precision::exact);
  return output(run_linear_cross_entropy(run, without, in, false), "loss_sum")[0];
}

/// Values of 1, 0 and -1: every product of them is exact in FP8 and in bf16, and so are the logits.
LinearCrossEntropyInputs exact_inputs(const LinearCrossEntropyCase& c) {
  LinearCrossEntropyInputs in(c);
  for (Values* values : {&in.hidden, &in.weight})
    for (double& v : *values) v = v > 0.7 ? 1 : v < -0.7 ? -1 : 0;
  return in;
}

/// The codes and scales of d_logits and d_logits^T.
std::vector<Values> codes_of(OpRunner& run, const LinearCrossEntropyCase& c, const LinearCrossEntropyFp8& fp8) {
  const Fp8Matrix plain = fp8.d_logits.matrix(c.M, c.V, Fp8Blocks::row);
  const Fp8Matrix transposed = fp8.d_logits_t.matrix(c.V, c.M, Fp8Blocks::row);
  return {read_values(run, plain), used_scales(run, plain), read_values(run, transposed), used_scales(run, transposed)};
}

}  // namespace

TEST_CASE("linear_cross_entropy in FP8 is the definition with rounded operands in its three products") {
  for (const LinearCrossEntropyCase& c : kCases) {
    if (c.M * c.H * c.V > (1 << 24)) continue;
    CAPTURE(c.M, c.H, c.V, c.chunk, c.masked_every);
    const LinearCrossEntropyInputs in(c);
    const Outputs want = by_definition(c, in);
    OpRunner run(Precision::exact);
    const Outputs got = run_fp8(run, c, in).outputs, sums = run_fp8(run, c, in, true).outputs;
    // All in float64: what differs is the order of sums, and next to no code of d_logits. One of 10^4 would be 6e-4.
    for (const Output& o : want) {
      CAPTURE(o.name);
      CHECK(relative_error(output(got, o.name), o.values) < 1e-6);
    }
    const Values& losses = output(want, "losses");
    CHECK(output(got, "loss_sum")[0] == Approx(std::accumulate(losses.begin(), losses.end(), in.loss_sum)));
    CHECK(output(sums, "d_hidden") == output(got, "d_hidden"));
    CHECK(relative_error(added(output(sums, "d_weight"), in.d_weight), output(want, "d_weight")) < 1e-6);
  }
}

TEST_CASE("linear_cross_entropy in FP8 has losses and gradients within 6 % of those without") {
  // Both operands of a product are rounded, 2.6 % each: 3.7 %. The rounded logits, of standard deviation 2, move the
  // probabilities by 3.7 % of 2, which adds to the gradients where no target is.
  const LinearCrossEntropyCase c{128, 128, 256, 64, 4};
  const LinearCrossEntropyInputs in(c);
  OpRunner run(Precision::exact);
  const Outputs exact = run_linear_cross_entropy(run, c, in, false), fp8 = run_fp8(run, c, in).outputs;
  CHECK(relative_error(output(fp8, "losses"), output(exact, "losses")) < 0.03);
  CHECK(relative_error(output(fp8, "loss_sum"), output(exact, "loss_sum")) < 0.003);
  for (const char* name : {"d_hidden", "d_weight"}) {
    CAPTURE(name);
    const double error = relative_error(output(fp8, name), output(exact, name));
    CHECK(error > 0.02);
    CHECK(error < 0.06);
  }
}

TEST_CASE("linear_cross_entropy in FP8: a step along its gradients changes the exact loss as they say") {
  // The rounding errors are independent of the gradient, so that they change the slope along it by about 5 %^2 only,
  // and by the part of them that happens to point along it.
  const LinearCrossEntropyCase c{64, 64, 128, 32, 3};
  const LinearCrossEntropyInputs in(c);
  OpRunner run(Precision::exact);
  const Outputs fp8 = run_fp8(run, c, in).outputs;
  const auto slope = [&](Values LinearCrossEntropyInputs::*member, const Values& gradient) {
    const double norm2 = std::inner_product(gradient.begin(), gradient.end(), gradient.begin(), 0.0);
    const double step = 1e-4 / std::sqrt(norm2);
    LinearCrossEntropyInputs up = in, down = in;
    for (std::size_t i = 0; i < gradient.size(); ++i) {
      (up.*member)[i] += step * gradient[i];
      (down.*member)[i] -= step * gradient[i];
    }
    const double change = sum_of_losses(c, up) - sum_of_losses(c, down);
    return static_cast<double>(in.gradient_scale) * change / (2 * step) / norm2;
  };
  CHECK(slope(&LinearCrossEntropyInputs::hidden, output(fp8, "d_hidden")) == Approx(1).margin(0.02));
  CHECK(slope(&LinearCrossEntropyInputs::weight, output(fp8, "d_weight")) == Approx(1).margin(0.02));
}

TEST_CASE("linear_cross_entropy in FP8 keeps the gradients of ids that are far less likely than targets next to them") {
  // Probabilities of e^-18 = 1.5e-8; in a block with a target's gradient, e4m3 would round them to 0. Hidden states of
  // 1 and -1 and one weight other than 0 make everything else exact, but for f32 scales.
  const LinearCrossEntropyCase c{128, 16, 128, 128, 0};
  LinearCrossEntropyInputs in(c);
  for (double& x : in.hidden) x = x < 0 ? -1 : 1;
  std::fill(in.weight.begin(), in.weight.end(), 0);
  std::fill(in.targets.begin(), in.targets.end(), 1);
  for (std::size_t m = 0; m < 128; ++m) in.hidden[16 * m] = 1;
  for (std::size_t v = 64; v < 128; ++v) in.weight[16 * v] = -18;
  OpRunner run(Precision::exact);
  const Outputs exact = run_linear_cross_entropy(run, c, in, false), fp8 = run_fp8(run, c, in).outputs;
  const auto unlikely = [](const Outputs& outputs) { return part_of(output(outputs, "d_weight"), 64 * 16, 128 * 16); };
  CHECK(relative_error(unlikely(fp8), unlikely(exact)) < 1e-4);
}

TEST_CASE("linear_cross_entropy in FP8 in f32 agrees with f64, and gives the same bits on any number of threads") {
  for (const LinearCrossEntropyCase& c : kCases) {
    if (c.V > 1000) continue;
    CAPTURE(c.M, c.H, c.V, c.chunk, c.masked_every);
    const LinearCrossEntropyInputs in(c);
    // f32 errors of 1e-6 in a logit move 1 of 10^5 codes of d_logits to the next one, 6 % away: 2e-4.
    for (const bool accumulate : {false, true})
      check_f32([&](OpRunner& run) { return run_fp8(run, c, in, accumulate).outputs; }, 1e-3);
  }
}

namespace {

/// With hidden and weight that are rounded before the op, against the op that rounds them.
void check_rounded_before(Precision precision) {
  for (const LinearCrossEntropyCase& c : kCases) {
    CAPTURE(c.M, c.H, c.V, c.chunk);
    const LinearCrossEntropyInputs in(c);
    OpRunner run(precision);
    const std::int64_t chunk = std::min(c.chunk, c.M), chunks = (c.M + chunk - 1) / chunk;
    LinearCrossEntropyFp8 fp8 = operands_of(run, c);
    fp8.hidden = fp8_buffer(run, chunks * chunk, c.H, Fp8Blocks::row);
    fp8.hidden_t = {.values = fp8_buffer(run, chunks * c.H, chunk, Fp8Blocks::row).values,
                    .scales = run.f32_output({chunks * fp8_scales_shape(c.H, chunk, Fp8Blocks::square).count()})};
    const Tensor hidden = run.act_input(in.hidden, {c.M, c.H});
    for (std::int64_t begin = 0; begin < c.M; begin += chunk) {
      const std::int64_t end = std::min(begin + chunk, c.M);
      const HeadInput input = head_input(fp8, begin / chunk, end - begin, chunk, c.H);
      quantize_fp8(run.stream(), {.plain = input.hidden, .transposed = input.hidden_t, .x = hidden.rows(begin, end)});
    }
    quantize_fp8(run.stream(), {.plain = fp8.weight.matrix(c.V, c.H, Fp8Blocks::square),
                                .transposed = fp8.weight_t.matrix(c.H, c.V, Fp8Blocks::square),
                                .x = run.act_input(in.weight, {c.V, c.H})});
    const Outputs got = run_linear_cross_entropy(run, c, in, false, &fp8, logits_of(run, c), true);
    const Outputs want = run_fp8(run, c, in).outputs;
    for (const Output& o : want) {
      CAPTURE(o.name);
      CHECK((output(got, o.name) == o.values));
    }
  }
}

}  // namespace

TEST_CASE("linear_cross_entropy in FP8 gives the same bits when hidden and weight were rounded before") {
  check_rounded_before(Precision::f32);
}

TEST_CASE("linear_cross_entropy in FP8 on CUDA gives the same bits when hidden and weight were rounded before") {
  if (skip_without_gpu()) return;
  check_rounded_before(Precision::cuda);
}

TEST_CASE("linear_cross_entropy refuses FP8 operands that do not fit") {
  OpRunner run(Precision::f32);
  const auto refused = [&](const LinearCrossEntropyCase& c, const LinearCrossEntropyCase& of_operands) {
    const LinearCrossEntropyFp8 fp8 = operands_of(run, of_operands);
    try {
      run_linear_cross_entropy(run, c, LinearCrossEntropyInputs(c), false, &fp8);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("nothing");
  };
  const LinearCrossEntropyCase fits{32, 16, 48, 16, 0};
  CHECK(refused(fits, fits) == "nothing");
  CHECK(refused({32, 16, 48, 16, 0, false}, fits) == "linear_cross_entropy: fp8 without d_hidden");
  CHECK(refused({32, 16, 48, 24, 0}, fits) ==
        "linear_cross_entropy: 32 tokens in chunks of 24, expected multiples of 16 with FP8");
  CHECK(refused({32, 16, 48, 32, 0}, fits) ==
        "linear_cross_entropy: fp8.hidden has room for 256 values and 16 scales, expected at least 512 and 32");
  CHECK(refused({32, 16, 57, 16, 0}, {32, 16, 57, 16, 0}) ==
        "linear_cross_entropy: H is 16 and rows of logits are 57, expected a multiple of 16 and 64 with FP8");
  CHECK(refused({32, 24, 48, 16, 0}, {32, 24, 48, 16, 0}) ==
        "linear_cross_entropy: H is 24 and rows of logits are 48, expected a multiple of 16 and 48 with FP8");
}

TEST_CASE("linear_cross_entropy on CUDA writes the d_logits that quantize_fp8 makes of those in bf16, to the bit") {
  if (skip_without_gpu()) return;
  for (LinearCrossEntropyCase c : kCases) {
    c.chunk = c.M;  // logits and d_logits of all tokens stay in memory
    CAPTURE(c.M, c.H, c.V, c.masked_every);
    const LinearCrossEntropyInputs in = exact_inputs(c);
    OpRunner run(Precision::cuda);
    const Tensor logits = logits_of(run, c);
    const Outputs without = run_linear_cross_entropy(run, c, in, false, nullptr, logits);
    const LinearCrossEntropyFp8 want = operands_of(run, c);
    quantize_fp8(run.stream(), {.plain = want.d_logits.matrix(c.M, c.V, Fp8Blocks::row),
                                .transposed = want.d_logits_t.matrix(c.V, c.M, Fp8Blocks::row),
                                .x = logits});
    const Fp8Run got = run_fp8(run, c, in);
    CHECK((output(got.outputs, "losses") == output(without, "losses")));
    CHECK((codes_of(run, c, got.operands) == codes_of(run, c, want)));
  }
}

TEST_CASE("linear_cross_entropy in FP8 on CUDA agrees with the CPU") {
  if (skip_without_gpu()) return;
  for (const LinearCrossEntropyCase& c : kCases) {
    CAPTURE(c.M, c.H, c.V, c.chunk, c.masked_every);
    const LinearCrossEntropyInputs in(c);
    // Rounding hidden and weight to bf16 moves some of their values to the next code of e4m3, up to 12 % away. The
    // limit that check_cuda doubles is therefore up to 0.9 % for losses and 2.3 % for gradients. Rounding logits and
    // d_logits to bf16, too, adds a quarter of it at most.
    for (const bool accumulate : {false, true})
      check_cuda(
          [&](OpRunner& run) {
            Outputs out = run_fp8(run, c, in, accumulate).outputs;
            std::erase_if(out, [](const Output& o) { return o.name == "loss_sum"; });
            return out;
          },
          0.002);
  }
}
