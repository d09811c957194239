#include "ops/optimizer_cases.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/optimizer/stochastic_rounding.h"

using namespace ssa;
using namespace ssa::test;

TEST_CASE("squared_norm adds the sum of squares") {
  for (const std::int64_t n : kFlatSizes) {
    CAPTURE(n);
    const Values x = random_values(n, 1);
    OpRunner run(Precision::exact);
    CHECK(output(run_squared_norm(run, n), "out")[0] == Approx(2.5 + weighted_sum(x, x)).epsilon(1e-13));
  }
}

TEST_CASE("squared_norm sums f32 in f64") {
  OpRunner run(Precision::f32);
  const std::int64_t n = 1 << 20;  // in f32, adding the small squares to the large one would not change it
  Values x(static_cast<std::size_t>(n), 0x1p-10);
  x[0] = 0x1p12;
  const Tensor out = run.f64_input({0}, {1});
  squared_norm(run.stream(), {.out = out, .x = run.f32_input(x, {n})});
  CHECK(run.read(out)[0] == 0x1p24 + static_cast<double>(n - 1) * 0x1p-20);
}

TEST_CASE("adamw agrees with the published algorithm applied to one scalar at a time") {
  for (const AdamWCase& c : kAdamWCases) {
    CAPTURE(c.n, c.steps, c.weight_decay, c.gradient_scale);
    const AdamWInputs in(c);
    Values theta = in.master, m(theta.size()), v(theta.size());
    for (std::size_t i = 0; i < theta.size(); ++i)
      for (int t = 1; t <= c.steps; ++t) {
        const double g = in.gradients[static_cast<std::size_t>(t - 1)][i] * static_cast<double>(c.gradient_scale);
        const double alpha = AdamWInputs::learning_rate(t);
        m[i] = in.beta1 * m[i] + (1 - in.beta1) * g;
        v[i] = in.beta2 * v[i] + (1 - in.beta2) * std::pow(g, 2);
        const double m_hat = m[i] / (1 - std::pow(in.beta1, t)), v_hat = v[i] / (1 - std::pow(in.beta2, t));
        theta[i] = theta[i] - alpha * m_hat / (std::sqrt(v_hat) + in.epsilon) - alpha * c.weight_decay * theta[i];
      }
    OpRunner run(Precision::exact);
    const Outputs out = run_adamw(run, c, in);
    CHECK(relative_error(output(out, "master"), theta) < 1e-14);
    CHECK(relative_error(output(out, "m"), m) < 1e-14);
    CHECK(relative_error(output(out, "v"), v) < 1e-14);
    CHECK(output(out, "weight") == output(out, "master"));
  }
}

TEST_CASE("adamw writes the weight in bf16, rounded from the master") {
  OpRunner run(Precision::f32);
  std::vector<bfloat16> stored(3);
  const Values one(3, 1.0);
  const Tensor master = run.f32_input({1, -2.5, 1e-3}, {3});
  adamw(run.stream(), {.master = master,
                       .m = run.f32_input(one, {3}),
                       .v = run.f32_input(one, {3}),
                       .weight = Tensor(stored.data(), DType::bf16, {3}),
                       .gradient = run.f32_input(one, {3}),
                       .gradient_scale = 1,
                       .learning_rate = 1e-3,
                       .beta1 = 0.9,
                       .beta2 = 0.95,
                       .epsilon = 1e-8,
                       .weight_decay = 0,
                       .step = 100000});
  const Values after = run.read(master);
  for (std::size_t i = 0; i < 3; ++i) CHECK(stored[i].bits == bfloat16(static_cast<float>(after[i])).bits);
}

TEST_CASE("round_at_random gives one of the two neighbors, with the mean of the exact value") {
  constexpr int kDraws = 1 << 16;
  // bf16 has 7 bits after the point: 1 + 0.3 x 2^-7 is between 1 and 1 + 2^-7; small, negative and subnormal numbers.
  for (const float exact : {1 + 0.3f * 0x1p-7f, -3 - 0.9f * 0x1p-6f, 1e-12f, 0.3f * 0x1p-133f}) {
    CAPTURE(exact);
    const auto bits = std::bit_cast<std::uint32_t>(exact);
    const auto value = [](std::uint32_t upper) { return static_cast<double>(std::bit_cast<float>(upper << 16)); };
    double sum = 0;
    for (int i = 0; i < kDraws; ++i) {
      const std::uint16_t drawn = round_at_random(bits, moment_rounding_bits(1, 2, static_cast<std::uint64_t>(i)));
      const std::uint32_t down = bits >> 16;
      REQUIRE((drawn == down || drawn == down + 1));
      sum += value(drawn);
    }
    // Five standard deviations of the mean of draws that are a step apart.
    const double step = std::abs(value((bits >> 16) + 1) - value(bits >> 16));
    CHECK(std::abs(sum / kDraws - static_cast<double>(exact)) < 5 * 0.5 * step / std::sqrt(kDraws));
  }
  // What is exact stays; so do infinities; a NaN stays a NaN.
  for (const float same : {0.0f, -0.0f, 1.5f, std::numeric_limits<float>::infinity()})
    CHECK(round_at_random(std::bit_cast<std::uint32_t>(same), 0xffffu) == bfloat16(same).bits);
  const std::uint16_t nan = round_at_random(0x7f800001u, 0xffffu);
  CHECK((nan & 0x7fc0u) == 0x7fc0u);
}

namespace {

/// Steps of adamw with a constant gradient and moments in bf16, of elements [first, first + n) of a larger range.
struct NarrowMoments {
  std::vector<bfloat16> m, v;
  Values master;

  NarrowMoments(std::int64_t n, std::int64_t first, int steps, std::uint64_t seed)
      : m(static_cast<std::size_t>(n)), v(static_cast<std::size_t>(n)) {
    OpRunner run(Precision::f32);
    const Tensor weights = run.f32_input(Values(m.size(), 1.0), {n});
    for (int step = 1; step <= steps; ++step)
      adamw(run.stream(), {.master = weights,
                           .m = Tensor(m.data(), DType::bf16, {n}),
                           .v = Tensor(v.data(), DType::bf16, {n}),
                           .gradient = run.f32_input(Values(m.size(), 0.3), {n}),
                           .gradient_scale = 1,
                           .learning_rate = 1e-3,
                           .beta1 = 0.9,
                           .beta2 = 0.999,
                           .epsilon = 1e-8,
                           .weight_decay = 0,
                           .step = step,
                           .seed = seed,
                           .first_index = first});
    master = run.read(weights);
  }
  static double mean(const std::vector<bfloat16>& values) {
    double sum = 0;
    for (const bfloat16 value : values) sum += static_cast<double>(static_cast<float>(value));
    return sum / static_cast<double>(values.size());
  }
};

}  // namespace

TEST_CASE("adamw with moments in bf16: their means follow f32, where rounding to nearest does not") {
  constexpr int kSteps = 300;
  constexpr std::int64_t kCount = 4096;
  const NarrowMoments narrow(kCount, 0, kSteps, 1);
  const double square = 0.09 * (1 - std::pow(0.999, kSteps));
  // An element's v ends some steps of 2^-8 of it away from the exact value; the mean of 4096 independent ones is
  // closer.
  CHECK(NarrowMoments::mean(narrow.v) == Approx(square).epsilon(2e-3));
  CHECK(NarrowMoments::mean(narrow.m) == Approx(0.3).epsilon(1e-3));
  // Rounded to nearest, each step adds a whole bf16 step to v or nothing.
  bfloat16 nearest;
  for (int step = 0; step < kSteps; ++step) nearest = bfloat16(0.999f * static_cast<float>(nearest) + 0.001f * 0.09f);
  CHECK(std::abs(static_cast<double>(static_cast<float>(nearest)) - square) > 0.1 * square);
}

TEST_CASE("adamw with moments in bf16: the random numbers belong to seed, step and index, however a range is cut") {
  const auto same = [](const bfloat16& a, const bfloat16& b) { return a.bits == b.bits; };
  const NarrowMoments whole(1000, 0, 3, 1), again(1000, 0, 3, 1), part(300, 700, 3, 1), other(1000, 0, 3, 2);
  CHECK(std::ranges::equal(whole.v, again.v, same));
  CHECK(std::equal(part.v.begin(), part.v.end(), whole.v.begin() + 700, same));
  CHECK(std::equal(part.m.begin(), part.m.end(), whole.m.begin() + 700, same));
  CHECK(std::equal(part.master.begin(), part.master.end(), whole.master.begin() + 700));
  CHECK_FALSE(std::ranges::equal(whole.v, other.v, same));
}

TEST_CASE("cast rounds f32 to the nearest bf16, ties to even, and widens bf16 exactly") {
  OpRunner run(Precision::f32);
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  // bf16 has 7 bits after the point: 1 + 2^-8 is between 1 and 1 + 2^-7, 1 + 3 * 2^-8 between 1 + 2^-7 and 1 + 2^-6.
  const Values x = {0, -0.5, 1 + 0x1p-8, 1 + 3 * 0x1p-8, 1 + 0x1p-8 + 0x1p-20, kInfinity, -kInfinity, std::nan("")};
  const Values want = {0, -0.5, 1, 1 + 0x1p-6, 1 + 0x1p-7, kInfinity, -kInfinity};
  std::vector<bfloat16> stored(x.size());
  const std::int64_t n = static_cast<std::int64_t>(x.size());
  const Tensor narrow(stored.data(), DType::bf16, {n}), wide = run.f32_output({n});
  cast(run.stream(), {.out = narrow, .x = run.f32_input(x, {n})});
  cast(run.stream(), {.out = wide, .x = narrow});
  Values back = run.read(wide);
  CHECK(std::isnan(back.back()));
  back.pop_back();
  CHECK(back == want);
}

TEST_CASE("accumulate adds f32 and bf16 to f32, rounding once") {
  OpRunner run(Precision::f32);
  const Values x = {1, -0.5, 0x1p-8, 3};
  std::vector<bfloat16> narrow;
  for (const double value : x) narrow.emplace_back(static_cast<float>(value));
  const Tensor out = run.f32_input({1, 0x1p-20, 1, -3}, {4});
  accumulate(run.stream(), {.out = out, .x = run.f32_input(x, {4})});
  CHECK(run.read(out) == Values{2, -0.5 + 0x1p-20, 1 + 0x1p-8, 0});
  accumulate(run.stream(), {.out = out, .x = Tensor(narrow.data(), DType::bf16, {4})});
  CHECK(run.read(out) == Values{3, -1 + 0x1p-20, 1 + 0x1p-7, 3});
  CHECK_THROWS_WITH(accumulate(run.stream(), {.out = out, .x = run.f32_output({3})}),
                    "accumulate: x is [3], expected [4]");
  CHECK_THROWS_WITH(accumulate(run.stream(), {.out = run.i32_output({4}), .x = out}),
                    "accumulate: out is i32, expected f32");
}

TEST_CASE("optimizer ops in f32 agree with f64 on any number of threads") {
  for (const std::int64_t n : kFlatSizes) {
    CAPTURE(n);
    check_f32([&](OpRunner& run) { return run_squared_norm(run, n); });
    check_f32([&](OpRunner& run) { return run_cast(run, n); });
    check_f32([&](OpRunner& run) { return run_accumulate(run, n); });
  }
  for (const AdamWCase& c : kAdamWCases) {
    CAPTURE(c.n, c.steps);
    const AdamWInputs in(c);
    check_f32([&](OpRunner& run) { return run_adamw(run, c, in); });
  }
}

TEST_CASE("optimizer ops refuse tensors that do not fit") {
  OpRunner run(Precision::f32);
  const Tensor x = run.f32_output({4});
  CHECK_THROWS_WITH(squared_norm(run.stream(), {.out = x, .x = x}), "squared_norm: out is [4], expected [1]");
  CHECK_THROWS_WITH(cast(run.stream(), {.out = run.f32_output({3}), .x = x}), "cast: out is [3], expected [4]");
  CHECK_THROWS_WITH(cast(run.stream(), {.out = run.i32_output({4}), .x = x}), "cast: out is i32, expected f32 or bf16");
  CHECK_THROWS_WITH(adamw(run.stream(), {.master = x,
                                         .m = x,
                                         .v = run.f32_output({5}),
                                         .gradient = x,
                                         .gradient_scale = 1,
                                         .learning_rate = 1,
                                         .beta1 = 0.9,
                                         .beta2 = 0.9,
                                         .epsilon = 1e-8,
                                         .weight_decay = 0,
                                         .step = 1}),
                    "adamw: v is [5], expected [4]");
}

TEST_CASE("adamw with moments in bf16 on CUDA rounds as on the CPU") {
  if (skip_without_gpu()) return;
  Stream cpu(DeviceKind::cpu), cuda(DeviceKind::cuda);
  // Sizes and offsets with and without vectors. From zero moments, m and v are one product each: the same bits.
  for (const auto& size : {std::pair<std::int64_t, std::int64_t>{4099, 0}, {1000, 3}}) {
    const std::int64_t n = size.first, offset = size.second;
    CAPTURE(n, offset);
    std::vector<float> gradient, master(static_cast<std::size_t>(n + offset), 1.0f);
    for (const double value : random_values(n + offset, 1)) gradient.push_back(static_cast<float>(value));
    const auto step = [&](Stream& stream) {
      const std::size_t wide = master.size() * 4, narrow = master.size() * 2;
      Buffer on_device(stream, 2 * wide + 2 * narrow);
      char* at = static_cast<char*>(on_device.data());
      const std::int64_t all = n + offset;
      const Tensor w(at, DType::f32, {all}), g(at + wide, DType::f32, {all}), m(at + 2 * wide, DType::bf16, {all}),
          v(at + 2 * wide + narrow, DType::bf16, {all});
      stream.copy(w.data(), master.data(), wide);
      stream.copy(g.data(), gradient.data(), wide);
      stream.zero(m);
      stream.zero(v);
      const auto part = [&](const Tensor& tensor) { return tensor.rows(offset, all); };
      adamw(stream, {.master = part(w),
                     .m = part(m),
                     .v = part(v),
                     .gradient = part(g),
                     .gradient_scale = 1,
                     .learning_rate = 1e-3,
                     .beta1 = 0.875,
                     .beta2 = 0.96875,
                     .epsilon = 1e-8,
                     .weight_decay = 0,
                     .step = 1,
                     .seed = 5,
                     .first_index = 11});
      std::vector<std::uint16_t> moments(2 * master.size());
      stream.copy(moments.data(), m.data(), 2 * narrow);
      stream.synchronize();
      return moments;
    };
    CHECK(step(cuda) == step(cpu));
  }
}

TEST_CASE("optimizer ops on CUDA agree with the CPU") {
  if (skip_without_gpu()) return;
  for (const std::int64_t n : kFlatSizes) {
    CAPTURE(n);
    check_cuda([&](OpRunner& run) { return run_squared_norm(run, n); });
    check_cuda([&](OpRunner& run) { return run_cast(run, n); });
    check_cuda([&](OpRunner& run) { return run_accumulate(run, n); });
  }
  for (const AdamWCase& c : kAdamWCases) {
    CAPTURE(c.n, c.steps);
    const AdamWInputs in(c);
    check_cuda([&](OpRunner& run) { return run_adamw(run, c, in); });
  }
}
