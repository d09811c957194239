#include <algorithm>
#include <vector>

#include "kernels/common/cpu/cpu.h"
#include "kernels/quantize_fp8/quantize_fp8.h"
#include "qkv_rope.h"

namespace ssa::cpu {
namespace {

/// Rotates the pairs (i, i + D/2) of x by the angles whose cosine and sine are cos_sin [D/2, 2]; direction -1 rotates
/// back. out may be x.
template <class Real>
void rotate(const Real* x, const Real* cos_sin, Real direction, Real* out, std::int64_t D) {
  for (std::int64_t i = 0; i < D / 2; ++i) {
    const Real a = x[i], b = x[i + D / 2], cos = cos_sin[2 * i], sin = direction * cos_sin[2 * i + 1];
    out[i] = a * cos - b * sin;
    out[i + D / 2] = b * cos + a * sin;
  }
}

/// mean [B, N, HK * D] of x [B, T, HK * D] over blocks of tokens; the last block may be shorter.
template <class Real>
void block_mean(const Tensor& x, const Tensor& mean, std::int64_t block_size) {
  const std::int64_t B = x.dim(0), T = x.dim(1), N = mean.dim(1), width = x.dim(2) * x.dim(3);
  const Real* all = x.as<Real>();
  Real* out = mean.as<Real>();
#pragma omp parallel for
  for (std::int64_t bn = 0; bn < B * N; ++bn) {
    const std::int64_t b = bn / N, begin = bn % N * block_size, end = std::min(begin + block_size, T);
    Real* sum = out + bn * width;
    std::fill_n(sum, width, Real{0});
    for (std::int64_t t = begin; t < end; ++t) axpy(Real{1}, all + (b * T + t) * width, sum, width);
    for (std::int64_t i = 0; i < width; ++i) sum[i] /= static_cast<Real>(end - begin);
  }
}

template <class Real>
void forward(const QkvRopeForward& p) {
  const std::int64_t M = p.q.dim(0) * p.q.dim(1), HQ = p.q.dim(2), HK = p.k.dim(2), D = p.q.dim(3);
  const std::int64_t stride = p.qkvg.dim(1);
  const Real *qkvg = p.qkvg.as<Real>(), *all_cos_sin = p.cos_sin.as<Real>();
  const std::int32_t* positions = p.positions.as<std::int32_t>();
  Real *q = p.q.as<Real>(), *k = p.k.as<Real>(), *v = p.v.as<Real>(), *gates = p.gates.as<Real>();
#pragma omp parallel for
  for (std::int64_t m = 0; m < M; ++m) {
    const Real *q_in = qkvg + m * stride, *k_in = q_in + HQ * D, *v_in = k_in + HK * D, *logits = v_in + HK * D;
    const Real* cos_sin = all_cos_sin + positions[m] * D;
    for (std::int64_t h = 0; h < HQ; ++h) rotate(q_in + h * D, cos_sin, Real{1}, q + (m * HQ + h) * D, D);
    for (std::int64_t h = 0; h < HK; ++h) rotate(k_in + h * D, cos_sin, Real{1}, k + (m * HK + h) * D, D);
    std::copy_n(v_in, HK * D, v + m * HK * D);
    for (std::int64_t i = 0; i < 3 * HQ; ++i) gates[m * 3 * HQ + i] = 1 / (1 + exp_simd(-logits[i]));
  }
  if (p.k_mean) block_mean<Real>(p.k, p.k_mean, p.block_size);
  if (p.v_mean) block_mean<Real>(p.v, p.v_mean, p.block_size);
}

template <class Real>
void backward(const QkvRopeBackward& p, Real* d_qkvg, std::int64_t stride) {
  const std::int64_t B = p.d_q.dim(0), T = p.d_q.dim(1), HQ = p.d_q.dim(2), HK = p.d_k.dim(2), D = p.d_q.dim(3);
  const std::int64_t N = (T + p.block_size - 1) / p.block_size;
  const Real *d_q = p.d_q.as<Real>(), *d_k = p.d_k.as<Real>(), *d_v = p.d_v.as<Real>();
  const Real *d_k_mean = p.d_k_mean.as_or_null<Real>(), *d_v_mean = p.d_v_mean.as_or_null<Real>();
  const Real *d_gates = p.d_gates.as<Real>(), *gates = p.gates.as<Real>(), *all_cos_sin = p.cos_sin.as<Real>();
  const std::int32_t* positions = p.positions.as<std::int32_t>();
#pragma omp parallel for
  for (std::int64_t m = 0; m < B * T; ++m) {
    Real *q_out = d_qkvg + m * stride, *k_out = q_out + HQ * D, *v_out = k_out + HK * D, *d_logits = v_out + HK * D;
    const std::int64_t b = m / T, block = m % T / p.block_size;
    const std::int64_t tokens = std::min(p.block_size, T - block * p.block_size);
    const Real share = 1 / static_cast<Real>(tokens);
    const Real* cos_sin = all_cos_sin + positions[m] * D;
    const std::int64_t mean = (b * N + block) * HK * D;
    std::copy_n(d_k + m * HK * D, HK * D, k_out);
    std::copy_n(d_v + m * HK * D, HK * D, v_out);
    if (d_k_mean) axpy(share, d_k_mean + mean, k_out, HK * D);
    if (d_v_mean) axpy(share, d_v_mean + mean, v_out, HK * D);
    for (std::int64_t h = 0; h < HQ; ++h) rotate(d_q + (m * HQ + h) * D, cos_sin, Real{-1}, q_out + h * D, D);
    for (std::int64_t h = 0; h < HK; ++h) rotate(k_out + h * D, cos_sin, Real{-1}, k_out + h * D, D);
    for (std::int64_t i = 0; i < 3 * HQ; ++i) {
      const Real gate = gates[m * 3 * HQ + i];
      d_logits[i] = d_gates[m * 3 * HQ + i] * gate * (1 - gate);
    }
  }
}

}  // namespace

void qkv_rope_forward(Stream&, const QkvRopeForward& p) {
  dispatch_real(p.qkvg, [&]<class Real>() { forward<Real>(p); });
}

void qkv_rope_backward(Stream& stream, const QkvRopeBackward& p) {
  dispatch_real(p.d_q, [&]<class Real>() {
    if (p.d_qkvg) return backward<Real>(p, p.d_qkvg.as<Real>(), p.d_qkvg.dim(1));
    std::vector<Real> d_qkvg(static_cast<std::size_t>(p.fp8.values.count()));
    backward<Real>(p, d_qkvg.data(), p.fp8.values.dim(1));
    const Tensor x(d_qkvg.data(), p.d_q.dtype(), {p.fp8.values.dim(0), p.fp8.values.dim(1)});
    cpu::quantize_fp8(stream, {.plain = p.fp8, .transposed = p.fp8_t, .x = x});
  });
}

}  // namespace ssa::cpu
