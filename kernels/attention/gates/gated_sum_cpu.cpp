#include "gated_sum.h"
#include "kernels/common/cpu/cpu.h"
#include "kernels/quantize_fp8/quantize_fp8.h"

namespace ssa::cpu {
namespace {

template <class Real>
void forward(const GatedSumForward& p, Real* all_out) {
  const std::int64_t D = p.selected.dim(3), heads = p.selected.count() / D;
  const Real *gates = p.gates.as<Real>(), *selected = p.selected.as<Real>();
  const Real *compressed = p.compressed.as_or_null<Real>(), *window = p.window.as_or_null<Real>();
#pragma omp parallel for
  for (std::int64_t h = 0; h < heads; ++h) {
    const Real g_cmp = gates[3 * h], g_slc = gates[3 * h + 1], g_swa = gates[3 * h + 2];
    Real* out = all_out + h * D;
    for (std::int64_t d = 0; d < D; ++d) out[d] = g_slc * selected[h * D + d];
    if (compressed) axpy(g_cmp, compressed + h * D, out, D);
    if (window) axpy(g_swa, window + h * D, out, D);
  }
}

template <class Real>
void backward(const GatedSumBackward& p) {
  const std::int64_t heads = p.d_out.dim(0) * p.d_out.dim(1) * p.d_out.dim(2), D = p.d_out.dim(3);
  struct Branch {
    const Real* x;  ///< null when absent
    Real *d_x, *delta;
  };
  const Branch branches[3] = {
      // in gate order
      {p.compressed.as_or_null<Real>(), p.d_compressed.as_or_null<Real>(), p.delta_compressed.as_or_null<Real>()},
      {p.selected.as<Real>(), p.d_selected.as<Real>(), p.delta_selected.as<Real>()},
      {p.window.as_or_null<Real>(), p.d_window.as_or_null<Real>(), p.delta_window.as_or_null<Real>()}};
  const Real *gates = p.gates.as<Real>(), *all_d_out = p.d_out.as<Real>();
  Real* d_gates = p.d_gates.as<Real>();
#pragma omp parallel for
  for (std::int64_t h = 0; h < heads; ++h) {
    const Real* d_out = all_d_out + h * D;
    for (std::int64_t i = 0; i < 3; ++i) {
      const auto& [all_x, all_d_x, delta] = branches[i];
      d_gates[3 * h + i] = 0;
      if (!all_x) continue;
      const Real* x = all_x + h * D;
      Real* d_x = all_d_x + h * D;
      for (std::int64_t d = 0; d < D; ++d) d_x[d] = gates[3 * h + i] * d_out[d];
      delta[h] = dot(d_x, x, D);
      d_gates[3 * h + i] = dot(d_out, x, D);
    }
  }
}

}  // namespace

void gated_sum_forward(Stream& stream, const GatedSumForward& p) {
  dispatch_real(p.selected, [&]<class Real>() {
    if (p.out) return forward<Real>(p, p.out.as<Real>());
    std::vector<Real> out(static_cast<std::size_t>(p.selected.count()));
    forward<Real>(p, out.data());
    const Tensor x(out.data(), p.selected.dtype(), {p.fp8.values.dim(0), p.fp8.values.dim(1)});
    cpu::quantize_fp8(stream, {.plain = p.fp8, .transposed = p.fp8_t, .x = x});
  });
}

void gated_sum_backward(Stream&, const GatedSumBackward& p) {
  dispatch_real(p.d_out, [&]<class Real>() { backward<Real>(p); });
}

}  // namespace ssa::cpu
