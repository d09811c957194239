#include "kernels/common/cpu/cpu.h"

#include "support/op_runner.h"

using namespace ssa;

TEST_CASE("exp_simd is e^x to 2 units in the last place") {
  double worst = 0;
  for (int i = -87000; i <= 88000; ++i) {
    const float x = static_cast<float>(i) / 1000;
    const double want = std::exp(static_cast<double>(x));
    worst = std::max(worst, std::abs(cpu::exp_simd(x) - want) / want);
  }
  CHECK(worst < 2.4e-7);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  CHECK(cpu::exp_simd(0.0f) == 1.0f);
  CHECK(cpu::exp_simd(-kInfinity) == 0.0f);
  CHECK(cpu::exp_simd(-1000.0f) == 0.0f);
  CHECK(cpu::exp_simd(1000.0f) == kInfinity);
  CHECK(cpu::exp_simd(kInfinity) == kInfinity);
  CHECK(std::isnan(cpu::exp_simd(std::nanf(""))));
}
