// Test cases of squared_norm, adamw, cast and accumulate.
#pragma once

#include <cmath>

#include "kernels/optimizer/optimizer.h"
#include "support/op_runner.h"

namespace ssa::test {

/// One element, sizes around vector widths and around the chunks that sums are split into.
inline const std::vector<std::int64_t> kFlatSizes = {1, 3, 64, 1000, 16384, 16385, 100003};

inline Outputs run_squared_norm(OpRunner& run, std::int64_t n) {
  const Tensor out = run.f64_input({2.5}, {1});
  squared_norm(run.stream(), {.out = out, .x = run.f32_input(random_values(n, 1), {n})});
  return {{"out", run.read(out)}};
}

struct AdamWCase {
  std::int64_t n;
  int steps;
  double weight_decay;
  float gradient_scale;
};

/// Odd and even sizes, one step, several steps, no weight decay.
inline const std::vector<AdamWCase> kAdamWCases = {
    {1, 1, 0.1, 1.0f}, {17, 5, 0.0, 0.5f}, {1000, 8, 0.1, 0.25f}, {4099, 3, 0.1, 1.0f}};

struct AdamWInputs {
  Values master;
  std::vector<Values> gradients;  ///< one per step; some elements are 0 in all
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8;

  explicit AdamWInputs(const AdamWCase& c) : master(random_values(c.n, 1)) {
    for (int s = 0; s < c.steps; ++s) {
      gradients.push_back(random_values(c.n, 2 + static_cast<std::uint64_t>(s), std::pow(10.0, -s)));
      for (std::size_t i = 5; i < master.size(); i += 7) gradients.back()[i] = 0;
    }
  }
  static double learning_rate(int step) { return 1e-2 * step; }
};

/// All steps, from zero moments; `weight` as the last step wrote it.
inline Outputs run_adamw(OpRunner& run, const AdamWCase& c, const AdamWInputs& in) {
  const Values zeros(in.master.size(), 0.0);
  const Tensor master = run.f32_input(in.master, {c.n}), m = run.f32_input(zeros, {c.n}),
               v = run.f32_input(zeros, {c.n});
  const Tensor weight = run.act_output({c.n});
  for (int step = 1; step <= c.steps; ++step)
    adamw(run.stream(), {.master = master,
                         .m = m,
                         .v = v,
                         .weight = weight,
                         .gradient = run.f32_input(in.gradients[static_cast<std::size_t>(step - 1)], {c.n}),
                         .gradient_scale = c.gradient_scale,
                         .learning_rate = AdamWInputs::learning_rate(step),
                         .beta1 = in.beta1,
                         .beta2 = in.beta2,
                         .epsilon = in.epsilon,
                         .weight_decay = c.weight_decay,
                         .step = step});
  return {{"master", run.read(master)}, {"m", run.read(m)}, {"v", run.read(v)}, {"weight", run.read(weight)}};
}

/// f32 to act, and act to f32.
inline Outputs run_cast(OpRunner& run, std::int64_t n) {
  const Values x = random_values(n, 1);
  const Tensor down = run.act_output({n}), up = run.f32_output({n});
  cast(run.stream(), {.out = down, .x = run.f32_input(x, {n})});
  cast(run.stream(), {.out = up, .x = run.act_input(x, {n})});
  return {{"down", run.read(down)}, {"up", run.read(up)}};
}

/// f32 and act, added to f32.
inline Outputs run_accumulate(OpRunner& run, std::int64_t n) {
  const Values x = random_values(n, 1), before = random_values(n, 2);
  const Tensor from_f32 = run.f32_input(before, {n}), from_act = run.f32_input(before, {n});
  accumulate(run.stream(), {.out = from_f32, .x = run.f32_input(x, {n})});
  accumulate(run.stream(), {.out = from_act, .x = run.act_input(x, {n})});
  return {{"from_f32", run.read(from_f32)}, {"from_act", run.read(from_act)}};
}

}  // namespace ssa::test
