#include "attention_stats.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/attention/attention_cpu.h"

namespace ssa::cpu {
namespace {

template <class Real>
void stats(const AttentionStats& p) {
  const std::int64_t B = p.q.dim(0), T = p.q.dim(1), HQ = p.q.dim(2), D = p.q.dim(3);
  const std::int64_t HK = p.k.dim(2), G = HQ / HK, slots = p.indices.dim(3);
  const std::int64_t N = (T + p.block_size - 1) / p.block_size;
  const Real scale = static_cast<Real>(p.scale);
  const Real *all_q = p.q.as<Real>(), *all_k = p.k.as<Real>(), *lse = p.lse.as<Real>();
  const std::int32_t* all_indices = p.indices.as<std::int32_t>();
  const PieceBegin begin_of(p.documents);
  // One thread sums a head, so that the order of the sums does not depend on the number of threads.
#pragma omp parallel for schedule(dynamic)
  for (std::int64_t h = 0; h < HQ; ++h) {
    std::vector<char> selected(static_cast<std::size_t>(N));
    double mass = 0, entropy = 0;
    for (std::int64_t b = 0; b < B; ++b)
      for (std::int64_t t = 0; t < T; ++t) {
        const std::int64_t row = (b * T + t) * HQ + h, kv_head = h / G;
        const std::int32_t* indices = all_indices + ((b * T + t) * HK + kv_head) * slots;
        std::fill(selected.begin(), selected.end(), char{false});
        for (std::int64_t s = 0; s < slots && indices[s] >= 0; ++s) selected[indices[s]] = true;
        for (std::int64_t u = begin_of(b, t); u <= t; ++u) {
          const Real log_p = scale * dot(all_q + row * D, all_k + ((b * T + u) * HK + kv_head) * D, D) - lse[row];
          const double probability = std::exp(log_p);
          if (selected[u / p.block_size]) mass += probability;
          entropy -= probability * log_p;
        }
      }
    p.selected_mass.as<double>()[h] += mass;
    p.entropy.as<double>()[h] += entropy;
  }
}

}  // namespace

void attention_stats(Stream&, const AttentionStats& p) {
  dispatch_real(p.q, [&]<class Real>() { stats<Real>(p); });
}

}  // namespace ssa::cpu
