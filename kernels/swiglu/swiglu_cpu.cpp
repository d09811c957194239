#include <vector>

#include "kernels/common/cpu/cpu.h"
#include "kernels/quantize_fp8/quantize_fp8.h"
#include "swiglu.h"

namespace ssa::cpu {
namespace {

template <class Real>
void forward(const Tensor& to, const Tensor& from) {
  const std::int64_t M = to.dim(0), F = to.dim(1);
  const Real* gate_up = from.as<Real>();
  Real* all_out = to.as<Real>();
#pragma omp parallel for
  for (std::int64_t m = 0; m < M; ++m) {
    const Real *gate = gate_up + m * 2 * F, *up = gate + F;
    Real* out = all_out + m * F;
#pragma omp simd
    for (std::int64_t f = 0; f < F; ++f) out[f] = gate[f] / (1 + exp_simd(-gate[f])) * up[f];
  }
}

template <class Real>
void backward(const SwigluBackward& p) {
  const std::int64_t M = p.d_out.dim(0), F = p.d_out.dim(1);
  const Real *gate_up = p.gate_up.as<Real>(), *all_d_out = p.d_out.as<Real>();
  Real *d_gate_up = p.d_gate_up.as<Real>(), *out = p.out.as_or_null<Real>();
#pragma omp parallel for
  for (std::int64_t m = 0; m < M; ++m) {
    const Real *gate = gate_up + m * 2 * F, *up = gate + F, *d_out = all_d_out + m * F;
    Real *d_gate = d_gate_up + m * 2 * F, *d_up = d_gate + F;
    if (out) {
#pragma omp simd
      for (std::int64_t f = 0; f < F; ++f) out[m * F + f] = gate[f] / (1 + exp_simd(-gate[f])) * up[f];
    }
    // d_gate may alias gate, and d_up may alias up: each element is read before it is written.
#pragma omp simd
    for (std::int64_t f = 0; f < F; ++f) {
      const Real x = gate[f], sigmoid = 1 / (1 + exp_simd(-x)), silu = x * sigmoid;
      const Real d_silu = d_out[f] * up[f];
      d_up[f] = d_out[f] * silu;
      d_gate[f] = d_silu * (sigmoid + silu * (1 - sigmoid));
    }
  }
}

}  // namespace

void swiglu_forward(Stream& stream, const SwigluForward& p) {
  dispatch_real(p.gate_up, [&]<class Real>() {
    std::vector<Real> in_memory(static_cast<std::size_t>(p.out ? 0 : p.gate_up.count() / 2));
    const Shape shape{p.gate_up.dim(0), p.gate_up.dim(1) / 2};
    const Tensor out = p.out ? p.out : Tensor(in_memory.data(), p.gate_up.dtype(), shape);
    forward<Real>(out, p.gate_up);
    if (p.fp8 || p.fp8_t) cpu::quantize_fp8(stream, {.plain = p.fp8, .transposed = p.fp8_t, .x = out});
  });
}

void swiglu_backward(Stream& stream, const SwigluBackward& p) {
  dispatch_real(p.d_out, [&]<class Real>() {
    if (!p.fp8) return backward<Real>(p);
    std::vector<Real> d_gate_up(static_cast<std::size_t>(p.gate_up.count()));
    SwigluBackward in_memory = p;
    in_memory.d_gate_up = Tensor(d_gate_up.data(), p.gate_up.dtype(), p.gate_up.shape());
    backward<Real>(in_memory);
    cpu::quantize_fp8(stream, {.plain = p.fp8, .transposed = p.fp8_t, .x = in_memory.d_gate_up});
  });
}

}  // namespace ssa::cpu
