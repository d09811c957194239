#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "gate_alignment.h"
#include "kernels/common/cpu/cpu.h"
#include "kernels/quantize_fp8/quantize_fp8.h"

namespace ssa::cpu {
namespace {

template <class Real>
void forward(const GateAlignmentForward& p, Real* out) {
  const Shape& shape = p.full.shape();
  const std::int64_t T = shape[1], M = shape[0] * T, HQ = shape[2], D = shape[3];
  const Real *gates = p.gates.as<Real>(), *full = p.full.as<Real>(), *sparse = p.sparse.as<Real>();
  const std::int32_t* full_stream = p.full_stream.as<std::int32_t>();
  // One sum per token, added in token order: the result does not depend on the number of threads.
  std::vector<double> sums(static_cast<std::size_t>(M));
#pragma omp parallel for
  for (std::int64_t m = 0; m < M; ++m) {
    const bool passes_full = full_stream[m / T] != 0;
    double token_sum = 0;
    for (std::int64_t h = m * HQ; h < (m + 1) * HQ; ++h) {
      const Real g = gates[3 * h + 1];
      Real sum = 0;
#pragma omp simd reduction(+ : sum)
      for (std::int64_t i = h * D; i < (h + 1) * D; ++i) {
        const Real a_full = g * full[i], a_sparse = g * sparse[i], distance = std::abs(a_full - a_sparse);
        sum += distance < 1 ? Real{0.5} * distance * distance : distance - Real{0.5};
        out[i] = passes_full ? a_full : a_sparse;
      }
      token_sum += sum;
    }
    sums[static_cast<std::size_t>(m)] = token_sum;
  }
  *p.alignment.as<double>() += 2 * p.alignment_scale * std::accumulate(sums.begin(), sums.end(), 0.0);
}

template <class Real>
void backward(const GateAlignmentBackward& p) {
  const std::int64_t heads = p.d_out.dim(0) * p.d_out.dim(1) * p.d_out.dim(2), D = p.d_out.dim(3);
  const std::int64_t heads_per_sequence = p.d_out.dim(1) * p.d_out.dim(2);
  const Real *d_out = p.d_out.as<Real>(), *gates = p.gates.as<Real>();
  const Real *full = p.full.as<Real>(), *sparse = p.sparse.as<Real>();
  const std::int32_t* full_stream = p.full_stream.as<std::int32_t>();
  const Real full_scale = static_cast<Real>(p.full_scale), sparse_scale = static_cast<Real>(p.sparse_scale);
  Real *d_gates = p.d_gates.as<Real>(), *d_full = p.d_full.as<Real>(), *d_sparse = p.d_sparse.as<Real>();
  Real *delta_full = p.delta_full.as<Real>(), *delta_sparse = p.delta_sparse.as<Real>();
#pragma omp parallel for
  for (std::int64_t h = 0; h < heads; ++h) {
    const bool passes_full = full_stream[h / heads_per_sequence] != 0;
    const Real g = gates[3 * h + 1];
    Real d_g = 0;
#pragma omp simd reduction(+ : d_g)
    for (std::int64_t i = h * D; i < (h + 1) * D; ++i) {
      const Real difference = g * full[i] - g * sparse[i];
      const Real c = std::clamp(difference, Real{-1}, Real{1});
      const Real d_a_full = full_scale * c + (passes_full ? d_out[i] : Real{0});
      const Real d_a_sparse = -sparse_scale * c + (passes_full ? Real{0} : d_out[i]);
      d_full[i] = g * d_a_full;
      d_sparse[i] = g * d_a_sparse;
      d_g += d_a_full * full[i] + d_a_sparse * sparse[i];
    }
    delta_full[h] = dot(d_full + h * D, full + h * D, D);
    delta_sparse[h] = dot(d_sparse + h * D, sparse + h * D, D);
    d_gates[3 * h] = 0;
    d_gates[3 * h + 1] = d_g;
    d_gates[3 * h + 2] = 0;
  }
}

}  // namespace

void gate_alignment_forward(Stream& stream, const GateAlignmentForward& p) {
  dispatch_real(p.full, [&]<class Real>() {
    if (p.out) return forward<Real>(p, p.out.as<Real>());
    std::vector<Real> out(static_cast<std::size_t>(p.full.count()));
    forward<Real>(p, out.data());
    const Tensor x(out.data(), p.full.dtype(), {p.fp8.values.dim(0), p.fp8.values.dim(1)});
    cpu::quantize_fp8(stream, {.plain = p.fp8, .transposed = p.fp8_t, .x = x});
  });
}

void gate_alignment_backward(Stream&, const GateAlignmentBackward& p) {
  dispatch_real(p.d_out, [&]<class Real>() { backward<Real>(p); });
}

}  // namespace ssa::cpu
