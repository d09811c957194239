#include <cmath>
#include <vector>

#include "kernels/common/cpu/cpu.h"
#include "kernels/quantize_fp8/quantize_fp8.h"
#include "rmsnorm.h"

namespace ssa::cpu {
namespace {

template <class Real>
void forward(const RmsNormForward& p, Real* all_out) {
  const std::int64_t M = p.x.dim(0), H = p.x.dim(1);
  const Real* weight = p.weight.as<Real>();
#pragma omp parallel for
  for (std::int64_t m = 0; m < M; ++m) {
    const Real* x = p.x.as<Real>() + m * H;
    if (p.delta) {
      const Real* delta = p.delta.as<Real>() + m * H;
      Real* residual = p.residual.as<Real>() + m * H;
      for (std::int64_t h = 0; h < H; ++h) residual[h] = x[h] + delta[h];
      x = residual;
    }
    const Real rstd = 1 / std::sqrt(dot(x, x, H) / static_cast<Real>(H) + static_cast<Real>(p.eps));
    Real* out = all_out + m * H;
    for (std::int64_t h = 0; h < H; ++h) out[h] = x[h] * rstd * weight[h];
    p.rstd.as<Real>()[m] = rstd;
  }
}

template <class Real>
void backward(const RmsNormBackward& p) {
  const std::int64_t M = p.d_out.dim(0), H = p.d_out.dim(1);
  const Real* weight = p.weight.as<Real>();
  const Real* rstd = p.rstd.as<Real>();
#pragma omp parallel for
  for (std::int64_t m = 0; m < M; ++m) {
    const Real* x = p.residual.as<Real>() + m * H;
    const Real* d_out = p.d_out.as<Real>() + m * H;
    Real* d_residual = p.d_residual.as<Real>() + m * H;
    Real mean_gn = 0;
    for (std::int64_t h = 0; h < H; ++h) mean_gn += d_out[h] * weight[h] * x[h] * rstd[m];
    mean_gn /= static_cast<Real>(H);
    for (std::int64_t h = 0; h < H; ++h) d_residual[h] += rstd[m] * (d_out[h] * weight[h] - x[h] * rstd[m] * mean_gn);
  }
  // The threads split columns, so that the order of the sum over tokens does not depend on their number.
#pragma omp parallel for
  for (std::int64_t h = 0; h < H; ++h) {
    Real sum = 0;
    for (std::int64_t m = 0; m < M; ++m)
      sum += p.d_out.as<Real>()[m * H + h] * p.residual.as<Real>()[m * H + h] * rstd[m];
    p.d_weight.as<Real>()[h] += sum;
  }
}

}  // namespace

void rmsnorm_forward(Stream& stream, const RmsNormForward& p) {
  dispatch_real(p.x, [&]<class Real>() {
    std::vector<Real> in_memory(static_cast<std::size_t>(p.out ? 0 : p.x.count()));
    const Tensor out = p.out ? p.out : Tensor(in_memory.data(), p.x.dtype(), p.x.shape());
    forward<Real>(p, out.as<Real>());
    if (p.fp8) cpu::quantize_fp8(stream, {.plain = p.fp8, .transposed = p.fp8_t, .x = out});
  });
}

void rmsnorm_backward(Stream& stream, const RmsNormBackward& p) {
  dispatch_real(p.d_out, [&]<class Real>() { backward<Real>(p); });
  if (p.fp8) cpu::quantize_fp8(stream, {.plain = p.fp8, .transposed = p.fp8_t, .x = p.d_residual});
}

}  // namespace ssa::cpu
