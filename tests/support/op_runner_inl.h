// Definitions of the templates that op_runner.h declares.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cmath>

#include "support/catch.h"

namespace ssa::test {

template <class Loss>
void check_gradient(const std::string& name, Loss&& loss, const Values& x, const Values& gradient, double tolerance,
                    double floor, int directions) {
  constexpr double kStep = 1e-4;
  for (int d = 0; d < directions; ++d) {
    const Values u = random_values(static_cast<std::int64_t>(x.size()), 1000 + static_cast<std::uint64_t>(d));
    Values plus = x, minus = x;
    double analytic = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      plus[i] += kStep * u[i];
      minus[i] -= kStep * u[i];
      analytic += gradient[i] * u[i];
    }
    const double numeric = (loss(plus) - loss(minus)) / (2 * kStep);
    INFO(name << ": direction " << d << ", numeric " << numeric << ", analytic " << analytic);
    CHECK(std::abs(numeric - analytic) <= tolerance * std::max({std::abs(numeric), std::abs(analytic), floor}));
  }
}

template <class Loss, class Inputs, class Base>
void check_gradient(const std::string& name, Loss&& loss, const Inputs& in, Values Base::*member,
                    const Values& gradient, double tolerance, double floor, int directions) {
  const auto loss_of_member = [&](const Values& x) {
    Inputs at = in;
    at.*member = x;
    return loss(at);
  };
  check_gradient(name, loss_of_member, in.*member, gradient, tolerance, floor, directions);
}

template <class Run>
void check_f32(Run&& run, double tolerance) {
  const int threads = omp_get_max_threads();
  OpRunner exact(Precision::exact), one(Precision::f32), three(Precision::f32);
  const Outputs want = run(exact);
  omp_set_num_threads(1);
  const Outputs got = run(one);
  omp_set_num_threads(3);
  const Outputs repeat = run(three);
  omp_set_num_threads(threads);
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double error = relative_error(got[i].values, want[i].values);
    INFO(want[i].name << ": relative error of f32 " << error << ", allowed " << tolerance);
    CHECK(error <= tolerance);
    INFO(want[i].name << ": bits depend on the number of threads");
    CHECK((got[i].values == repeat[i].values));
  }
}

template <class Run>
void check_cuda(Run&& run, double slack) {
  OpRunner exact(Precision::exact), rounded(Precision::rounded), cuda(Precision::cuda), again(Precision::cuda);
  const Outputs want = run(exact), limit = run(rounded), got = run(cuda), repeat = run(again);
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double allowed = 2 * relative_error(limit[i].values, want[i].values) + slack;
    const double error = relative_error(got[i].values, want[i].values);
    INFO(want[i].name << ": relative error " << error << ", allowed " << allowed);
    CHECK(error <= allowed);
    INFO(want[i].name << ": two runs give different bits");
    CHECK((got[i].values == repeat[i].values));
  }
}

}  // namespace ssa::test
