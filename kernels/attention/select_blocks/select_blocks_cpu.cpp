#include "select_blocks.h"

#include "kernels/attention/attention_cpu.h"

namespace ssa::cpu {
namespace {

/// Marks the `count` most important blocks of [begin, end), or all if there are fewer. A later block must be strictly
/// more important than an earlier one, so the lower index wins a tie.
template <class Real>
void choose(const std::vector<Real>& importance, std::int64_t begin, std::int64_t end, std::int64_t count,
            std::vector<char>& chosen) {
  for (count = std::min(count, end - begin); count > 0; --count) {
    std::int64_t highest = begin;
    while (chosen[highest]) ++highest;
    for (std::int64_t n = highest + 1; n < end; ++n)
      if (!chosen[n] && importance[n] > importance[highest]) highest = n;
    chosen[highest] = true;
  }
}

template <class Real>
void select(const SelectBlocks& p) {
  const std::int64_t B = p.q.dim(0), T = p.q.dim(1), HQ = p.q.dim(2), D = p.q.dim(3);
  const std::int64_t N = p.k_mean.dim(1), HK = p.k_mean.dim(2), G = HQ / HK, slots = p.indices.dim(3);
  const Real scale = static_cast<Real>(p.scale);
  const Real *all_q = p.q.as<Real>(), *all_k = p.k_mean.as<Real>();
  const std::int32_t* positions = p.positions.as_or_null<std::int32_t>();
  const PieceBegin begin_of(p.documents);
  std::int32_t* all_indices = p.indices.as<std::int32_t>();
#pragma omp parallel
  {
    std::vector<Real> weights(static_cast<std::size_t>(N)), importance(weights);
    std::vector<char> chosen(static_cast<std::size_t>(N));
#pragma omp for collapse(2) schedule(dynamic, 8)
    for (std::int64_t b = 0; b < B; ++b)
      for (std::int64_t t = 0; t < T; ++t)
        for (std::int64_t kv_head = 0; kv_head < HK; ++kv_head) {
          const std::int64_t position = positions ? positions[b * T + t] : t;
          // From here on, blocks are counted from the first one of the document piece.
          const std::int64_t first = begin_of(b, t) / p.block_size;
          const std::int64_t complete = (position + 1) / p.block_size - first, own = position / p.block_size - first;
          const Real* k = all_k + ((b * N + first) * HK + kv_head) * D;
          std::fill(importance.begin(), importance.end(), Real{0});
          for (std::int64_t h = kv_head * G; h < (kv_head + 1) * G; ++h) {
            const Real* q = all_q + ((b * T + t) * HQ + h) * D;
            for (std::int64_t n = 0; n < complete; ++n) weights[n] = scale * dot(q, k + n * HK * D, D);
            softmax(weights.data(), complete);
            for (std::int64_t n = 0; n < complete; ++n) importance[n] += weights[n];
          }

          std::fill(chosen.begin(), chosen.end(), char{false});
          if (p.mode == BlockSelection::reference && p.block_counts > p.block_size / 2 && own >= p.block_size) {
            const std::int64_t half = p.block_size / 2, cut = own / p.block_size * p.block_size;
            choose(importance, 0, cut, half, chosen);
            choose(importance, cut, own, half - 1, chosen);
          } else {
            choose(importance, 0, own, p.block_counts - 1, chosen);
          }
          chosen[own] = true;

          std::int32_t* indices = all_indices + ((b * T + t) * HK + kv_head) * slots;
          std::int64_t used = 0;
          for (std::int64_t n = 0; n <= own; ++n)
            if (chosen[n]) indices[used++] = static_cast<std::int32_t>(first + n);
          std::fill(indices + used, indices + slots, -1);
        }
  }
}

}  // namespace

void select_blocks(Stream&, const SelectBlocks& p) {
  dispatch_real(p.q, [&]<class Real>() { select<Real>(p); });
}

}  // namespace ssa::cpu
