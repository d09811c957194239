#include "ops/linear_cross_entropy_cases.h"

#include <algorithm>
#include <cmath>
#include <numeric>

using namespace ssa;
using namespace ssa::test;

namespace {

/// Losses from the definition, without subtracting the maximum: the logits are small.
Values losses_by_definition(const LinearCrossEntropyCase& c, const LinearCrossEntropyInputs& in) {
  Values losses;
  for (std::int64_t m = 0; m < c.M; ++m) {
    const std::int32_t target = in.targets[static_cast<std::size_t>(m)];
    double sum = 0, target_logit = 0;
    for (std::int64_t v = 0; v < c.V; ++v) {
      double logit = 0;
      for (std::int64_t h = 0; h < c.H; ++h)
        logit += in.hidden[static_cast<std::size_t>(m * c.H + h)] * in.weight[static_cast<std::size_t>(v * c.H + h)];
      sum += std::exp(logit);
      if (v == target) target_logit = logit;
    }
    losses.push_back(target == -100 ? 0 : std::log(sum) - target_logit);
  }
  return losses;
}

/// Logits of +-2048, one likely and one unlikely target. The vocabularies meet every CUDA kernel.
void check_large_logits(Precision precision) {
  for (const std::int64_t V : {3, 16, 16392, 65536, 128256, 131080}) {
    CAPTURE(V);
    const auto last = static_cast<std::size_t>(V - 1);
    const LinearCrossEntropyCase c{3, 1, V, 3, 0};
    LinearCrossEntropyInputs in(c);
    in.hidden = {1024, -1024, 1024};
    in.weight.assign(last + 1, 0);
    in.weight[0] = -2, in.weight[1] = 1, in.weight[last] = 2;
    in.targets = {static_cast<std::int32_t>(last), 1, -100};  // the likely id, an unlikely one, masked
    in.d_weight.assign(last + 1, 0);
    OpRunner run(precision);
    const Outputs out = run_linear_cross_entropy(run, c, in, true);
    CHECK(output(out, "losses") == Values{0, 3072, 0});
    CHECK(output(out, "d_hidden") == Values{0, -0.375, 0});  // 0.125 * (w[0] - w[1])
    Values d_weight(last + 1, 0);
    d_weight[0] = -128, d_weight[1] = 128;  // 0.125 * hidden[1], and its opposite
    CHECK((output(out, "d_weight") == d_weight));
  }
}

}  // namespace

TEST_CASE("linear_cross_entropy is logsumexp minus the target's logit, 0 where masked") {
  for (const LinearCrossEntropyCase& c : kLinearCrossEntropyCases) {
    CAPTURE(c.M, c.H, c.V, c.chunk, c.masked_every);
    const LinearCrossEntropyInputs in(c);
    OpRunner run(Precision::exact);
    const Outputs out = run_linear_cross_entropy(run, c, in, false);
    const Values want = losses_by_definition(c, in);
    for (std::size_t m = 0; m < want.size(); ++m)
      CHECK(output(out, "losses")[m] == Approx(want[m]).epsilon(1e-12).margin(1e-12));
    const double sum = std::accumulate(want.begin(), want.end(), in.loss_sum);
    CHECK(output(out, "loss_sum")[0] == Approx(sum).epsilon(1e-12));
  }
}

TEST_CASE("linear_cross_entropy survives logits that overflow exp, and a certain prediction has loss 0") {
  check_large_logits(Precision::f32);
}

TEST_CASE("linear_cross_entropy gradients are the derivative of gradient_scale times the sum of losses") {
  for (const LinearCrossEntropyCase& c : kLinearCrossEntropyCases) {
    if (!c.gradients) continue;
    CAPTURE(c.M, c.H, c.V, c.chunk, c.masked_every);
    const LinearCrossEntropyInputs in(c);
    OpRunner run(Precision::exact);
    const Outputs out = run_linear_cross_entropy(run, c, in, false);
    // A step along a random direction changes a logit by about step * sqrt(H): the truncation error grows with H.
    const double tolerance = 1e-6 * std::max(1.0, static_cast<double>(c.H) / 64);
    const int directions = c.V * c.H > 100000 ? 1 : 3;
    auto without = c;
    without.gradients = false;
    const auto loss = [&](const LinearCrossEntropyInputs& at) {
      OpRunner r(Precision::exact);
      const double sum = output(run_linear_cross_entropy(r, without, at, false), "loss_sum")[0];
      return static_cast<double>(in.gradient_scale) * sum;
    };
    check_gradient("hidden", loss, in, &LinearCrossEntropyInputs::hidden, output(out, "d_hidden"), tolerance, 1e-3,
                   directions);
    check_gradient("weight", loss, in, &LinearCrossEntropyInputs::weight, output(out, "d_weight"), tolerance, 1e-3,
                   directions);

    const Outputs sums = run_linear_cross_entropy(run, c, in, true);
    CHECK(output(sums, "d_hidden") == output(out, "d_hidden"));
    CHECK(relative_error(added(output(sums, "d_weight"), in.d_weight), output(out, "d_weight")) < 1e-13);
  }
}

TEST_CASE("linear_cross_entropy does not depend on the chunk size") {
  LinearCrossEntropyCase c{13, 17, 19, 13, 3};
  const LinearCrossEntropyInputs in(c);
  OpRunner run(Precision::exact);
  for (const bool accumulate : {false, true}) {
    c.chunk = c.M;
    const Outputs whole = run_linear_cross_entropy(run, c, in, accumulate);
    for (const std::int64_t chunk : {1, 5, 12, 40}) {
      CAPTURE(accumulate, chunk);
      c.chunk = chunk;
      const Outputs cut = run_linear_cross_entropy(run, c, in, accumulate);
      for (const Output& o : whole) {
        CAPTURE(o.name);
        CHECK(relative_error(output(cut, o.name), o.values) < 1e-14);
      }
    }
  }
}

TEST_CASE("linear_cross_entropy in f32 agrees with f64 on any number of threads") {
  for (const LinearCrossEntropyCase& c : kLinearCrossEntropyCases) {
    CAPTURE(c.M, c.H, c.V, c.chunk, c.masked_every);
    const LinearCrossEntropyInputs in(c);
    // d_hidden sums V terms of both signs, whose rounding errors grow as sqrt(V): 2e-4 at V = 128256.
    const double tolerance = std::max(1e-5, 6e-7 * std::sqrt(static_cast<double>(c.V)));
    for (const bool accumulate : {false, true})
      check_f32([&](OpRunner& run) { return run_linear_cross_entropy(run, c, in, accumulate); }, tolerance);
  }
}

TEST_CASE("linear_cross_entropy refuses tensors that do not fit") {
  OpRunner run(Precision::f32);
  CHECK_THROWS_WITH(linear_cross_entropy(run.stream(), {.loss_sum = run.f64_input({0}, {1}),
                                                        .d_hidden = run.act_output({3, 4}),
                                                        .logits = run.act_output({2, 5}),
                                                        .hidden = run.act_output({3, 4}),
                                                        .weight = run.act_output({5, 4}),
                                                        .targets = run.i32_output({3})}),
                    "linear_cross_entropy: d_hidden and d_weight come together");
  CHECK_THROWS_WITH(linear_cross_entropy(run.stream(), {.loss_sum = run.f64_input({0}, {1}),
                                                        .logits = run.act_output({2, 6}),
                                                        .hidden = run.act_output({3, 4}),
                                                        .weight = run.act_output({5, 4}),
                                                        .targets = run.i32_output({3})}),
                    "linear_cross_entropy: logits is [2, 6], expected [2, 5]");
  // Without tokens, no chunk would overwrite d_weight.
  CHECK_THROWS_WITH(linear_cross_entropy(run.stream(), {.loss_sum = run.f64_input({0}, {1}),
                                                        .d_hidden = run.act_output({0, 4}),
                                                        .d_weight = run.f32_output({5, 4}),
                                                        .logits = run.act_output({2, 5}),
                                                        .hidden = run.act_output({0, 4}),
                                                        .weight = run.act_output({5, 4}),
                                                        .targets = run.i32_output({0})}),
                    "linear_cross_entropy: hidden is [0, 4], expected [M, H] with M at least 1");
}

TEST_CASE("linear_cross_entropy on CUDA survives logits that overflow exp, and a certain prediction has loss 0") {
  if (skip_without_gpu()) return;
  check_large_logits(Precision::cuda);
}

TEST_CASE("linear_cross_entropy on CUDA agrees with the CPU") {
  if (skip_without_gpu()) return;
  for (const LinearCrossEntropyCase& c : kLinearCrossEntropyCases) {
    CAPTURE(c.M, c.H, c.V, c.chunk, c.masked_every);
    const LinearCrossEntropyInputs in(c);
    for (const bool accumulate : {false, true})
      check_cuda([&](OpRunner& run) {
        // The errors of the losses may cancel in their sum in one precision and not in another. So the sum is compared
        // with the losses of the same run.
        Outputs out = run_linear_cross_entropy(run, c, in, accumulate);
        const Values& losses = output(out, "losses");
        const double sum = std::accumulate(losses.begin(), losses.end(), in.loss_sum);
        CHECK(output(out, "loss_sum")[0] == Approx(sum).epsilon(run.act() == DType::bf16 ? 1e-5 : 1e-13));
        std::erase_if(out, [](const Output& o) { return o.name == "loss_sum"; });
        return out;
      });
  }
}
