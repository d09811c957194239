#include "ops/optimizer_cases.h"

#include <limits>

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
