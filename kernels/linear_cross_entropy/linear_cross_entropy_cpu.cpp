#include "linear_cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/common/cpu/cpu.h"
#include "kernels/linear_cross_entropy/head_products.h"

namespace ssa::cpu {
namespace {

/// Returns the loss of one token and replaces its logits by the gradient of gradient_scale * loss.
template <class Real>
Real loss_and_gradient(Real* logits, std::int64_t V, std::int32_t target, Real gradient_scale) {
  if (target == kIgnoredLabel) {
    std::fill_n(logits, V, Real{0});
    return 0;
  }
  Real row_max = -std::numeric_limits<Real>::infinity();
#pragma omp simd reduction(max : row_max)
  for (std::int64_t v = 0; v < V; ++v) row_max = std::max(row_max, logits[v]);
  const Real target_logit = logits[target];
  Real row_sum = 0;
#pragma omp simd reduction(+ : row_sum)
  for (std::int64_t v = 0; v < V; ++v) {
    logits[v] = exp_simd(logits[v] - row_max);
    row_sum += logits[v];
  }
  const Real scale = gradient_scale / row_sum;
  for (std::int64_t v = 0; v < V; ++v) logits[v] *= scale;
  logits[target] -= gradient_scale;
  return std::log(row_sum) + row_max - target_logit;
}

template <class Real>
void forward_and_backward(Stream& stream, const LinearCrossEntropy& p) {
  const std::int64_t M = p.hidden.dim(0), V = p.weight.dim(0), chunk = p.logits.dim(0), stride = p.logits.dim(1);
  const std::int32_t* targets = p.targets.as<std::int32_t>();
  Real *all_logits = p.logits.as<Real>(), *losses = p.losses.as_or_null<Real>();
  std::vector<Real> chunk_losses(static_cast<std::size_t>(std::min(chunk, M)));
  double loss_sum = 0;
  prepare_head(stream, p);
  for (std::int64_t begin = 0; begin < M; begin += chunk) {
    const std::int64_t end = std::min(begin + chunk, M);
    const HeadChunk part(p, begin, end);
    head_logits(stream, p, part);
#pragma omp parallel for
    for (std::int64_t m = begin; m < end; ++m)
      chunk_losses[static_cast<std::size_t>(m - begin)] =
          loss_and_gradient(all_logits + (m - begin) * stride, V, targets[m], static_cast<Real>(p.gradient_scale));
    for (std::int64_t m = begin; m < end; ++m)
      loss_sum += static_cast<double>(chunk_losses[static_cast<std::size_t>(m - begin)]);
    if (losses) std::copy_n(chunk_losses.data(), end - begin, losses + begin);
    if (!p.d_hidden) continue;
    if (p.fp8)
      cpu::quantize_fp8(stream, {.plain = part.d_logits_fp8, .transposed = part.d_logits_t_fp8, .x = part.logits});
    head_gradients(stream, p, part);
  }
  *p.loss_sum.as<double>() += loss_sum;
}

}  // namespace

void linear_cross_entropy(Stream& stream, const LinearCrossEntropy& p) {
  dispatch_real(p.hidden, [&]<class Real>() { forward_and_backward<Real>(stream, p); });
}

}  // namespace ssa::cpu
