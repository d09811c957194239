#include "attention_divergence.h"

#include <algorithm>
#include <cmath>

#include "kernels/attention/attention_cpu.h"

namespace ssa::cpu {
namespace {

template <class Real>
void divergence(const AttentionDivergence& p) {
  const std::int64_t B = p.q.dim(0), T = p.q.dim(1), HQ = p.q.dim(2), D = p.q.dim(3), HK = p.k.dim(2), G = HQ / HK;
  const Real scale = static_cast<Real>(p.scale);
  const Real *q = p.q.as<Real>(), *k = p.k.as<Real>(), *lse = p.lse.as<Real>();
  const Real *full = p.full.as<Real>(), *sparse = p.sparse.as<Real>();
  const PieceBegin begin_of(p.documents);
  // One thread sums a head, so that the order of the sums does not depend on the number of threads.
#pragma omp parallel for schedule(dynamic)
  for (std::int64_t h = 0; h < HQ; ++h) {
    double distance = 0, norm = 0, sink = 0;
    for (std::int64_t b = 0; b < B; ++b)
      for (std::int64_t t = 0; t < T; ++t) {
        const std::int64_t row = (b * T + t) * HQ + h;
        for (std::int64_t i = row * D; i < (row + 1) * D; ++i) {
          const double difference = static_cast<double>(full[i]) - static_cast<double>(sparse[i]);
          distance += difference * difference;
          norm += static_cast<double>(full[i]) * static_cast<double>(full[i]);
        }
        const std::int64_t begin = begin_of(b, t);
        for (std::int64_t u = begin; u <= std::min(t, begin + p.sink_tokens - 1); ++u)
          sink += std::exp(scale * dot(q + row * D, k + ((b * T + u) * HK + h / G) * D, D) - lse[row]);
      }
    p.distance.as<double>()[h] += distance;
    p.norm.as<double>()[h] += norm;
    p.sink.as<double>()[h] += sink;
  }
}

}  // namespace

void attention_divergence(Stream&, const AttentionDivergence& p) {
  dispatch_real(p.q, [&]<class Real>() { divergence<Real>(p); });
}

}  // namespace ssa::cpu
