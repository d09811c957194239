#include "ops/rmsnorm_cases.h"

using namespace ssa;
using namespace ssa::test;

TEST_CASE("rmsnorm backward is the derivative of forward") {
  for (RmsNormCase c : kRmsNormCases) {
    CAPTURE(c.M, c.H);
    c.delta = false;
    const RmsNormInputs in(c);
    OpRunner run(Precision::exact);
    const Outputs forward = run_rmsnorm_forward(run, c, in);
    const Outputs backward = run_rmsnorm_backward(run, c, in, output(forward, "rstd"));
    const auto loss = [&](const RmsNormInputs& at) {
      OpRunner r(Precision::exact);
      return weighted_sum(output(run_rmsnorm_forward(r, c, at), "out"), in.d_out);
    };
    check_gradient("x", loss, in, &RmsNormInputs::x, added(output(backward, "d_residual"), in.d_residual));
    check_gradient("weight", loss, in, &RmsNormInputs::weight, added(output(backward, "d_weight"), in.d_weight));
  }
}

TEST_CASE("rmsnorm adds delta to the residual before the norm") {
  const RmsNormCase c{3, 17, true}, plain{3, 17, false};
  RmsNormInputs in(c);
  OpRunner run(Precision::exact);
  const Outputs fused = run_rmsnorm_forward(run, c, in);
  for (std::size_t i = 0; i < in.x.size(); ++i) in.x[i] += in.delta[i];
  CHECK(output(fused, "residual") == in.x);
  CHECK(output(fused, "out") == output(run_rmsnorm_forward(run, plain, in), "out"));
}

TEST_CASE("rmsnorm on CUDA agrees with the CPU") {
  if (skip_without_gpu()) return;
  for (const RmsNormCase& c : kRmsNormCases) {
    CAPTURE(c.M, c.H);
    const RmsNormInputs in(c);
    check_cuda([&](OpRunner& run) { return run_rmsnorm_forward(run, c, in); });
    OpRunner exact(Precision::exact);
    const Values rstd = output(run_rmsnorm_forward(exact, {c.M, c.H, false}, in), "rstd");
    check_cuda([&](OpRunner& run) { return run_rmsnorm_backward(run, c, in, rstd); });
  }
}
