// Attention on the CPU for the causal, sparse, compressed and decode ops, which differ only in the keys that a query
// attends to. Each op passes a function keys_of(b, t, kv_head, keys) that fills the list `keys` with positions in k and
// v.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/attention/documents.h"
#include "kernels/common/cpu/cpu.h"

namespace ssa::cpu {

using Keys = std::vector<std::int64_t>;

/// The first token of the document piece that token t of sequence b is in; 0 without documents.
class PieceBegin {
 public:
  explicit PieceBegin(const DocumentBounds& documents)
      : begin_(documents.begin.as_or_null<std::int32_t>()), T_(documents ? documents.begin.dim(1) : 0) {}
  std::int64_t operator()(std::int64_t b, std::int64_t t) const { return begin_ ? begin_[b * T_ + t] : 0; }

 private:
  const std::int32_t* begin_;
  std::int64_t T_;
};

/// Replaces n scores by their softmax. Returns the log of the sum of their exponentials; -infinity if n is 0.
template <class Real>
Real softmax(Real* scores, std::int64_t n) {
  Real row_max = -std::numeric_limits<Real>::infinity();
#pragma omp simd reduction(max : row_max)
  for (std::int64_t i = 0; i < n; ++i) row_max = std::max(row_max, scores[i]);
  Real row_sum = 0;
#pragma omp simd reduction(+ : row_sum)
  for (std::int64_t i = 0; i < n; ++i) row_sum += scores[i] = exp_simd(scores[i] - row_max);
  for (std::int64_t i = 0; i < n; ++i) scores[i] /= row_sum;
  return row_max + std::log(row_sum);
}

/// Fills `keys` with the tokens before `end` in the selected blocks: blocks[0], blocks[1], ... up to the first -1.
inline void list_tokens(const std::int32_t* blocks, std::int64_t slots, std::int64_t block_size, std::int64_t end,
                        Keys& keys) {
  keys.clear();
  for (std::int64_t s = 0; s < slots && blocks[s] >= 0; ++s) {
    const std::int64_t first = blocks[s] * block_size;
    for (std::int64_t u = first; u < std::min(first + block_size, end); ++u) keys.push_back(u);
  }
}

/// Shapes as in causal_attention.h, with U keys per sequence instead of T. lse may be absent.
struct AttentionForward {
  Tensor out, lse, q, k, v;
  float scale;
};

template <class Real, class KeysOf>
void attention_forward_as(const AttentionForward& p, const KeysOf& keys_of) {
  const std::int64_t B = p.q.dim(0), T = p.q.dim(1), HQ = p.q.dim(2), D = p.q.dim(3);
  const std::int64_t U = p.k.dim(1), HK = p.k.dim(2), G = HQ / HK;
  const Real scale = static_cast<Real>(p.scale);
  const Real *all_q = p.q.as<Real>(), *all_k = p.k.as<Real>(), *all_v = p.v.as<Real>();
  Real *all_out = p.out.as<Real>(), *all_lse = p.lse.as_or_null<Real>();
#pragma omp parallel
  {
    Keys keys;
    std::vector<Real> weights(static_cast<std::size_t>(U));
#pragma omp for collapse(2) schedule(dynamic, 8)
    for (std::int64_t b = 0; b < B; ++b)
      for (std::int64_t t = 0; t < T; ++t)
        for (std::int64_t h = 0; h < HQ; ++h) {
          const std::int64_t row = (b * T + t) * HQ + h, kv_head = h / G;
          const auto at = [&](std::int64_t u) { return ((b * U + u) * HK + kv_head) * D; };
          if (h % G == 0) keys_of(b, t, kv_head, keys);
          const auto n = static_cast<std::int64_t>(keys.size());
          for (std::int64_t i = 0; i < n; ++i) weights[i] = scale * dot(all_q + row * D, all_k + at(keys[i]), D);
          const Real lse = softmax(weights.data(), n);
          if (all_lse) all_lse[row] = lse;
          Real* out = all_out + row * D;
          std::fill(out, out + D, Real{0});
          for (std::int64_t i = 0; i < n; ++i) axpy(weights[i], all_v + at(keys[i]), out, D);
        }
  }
}

/// Params is AttentionForward, or an op's struct with members of the same names.
template <class Params, class KeysOf>
void attention_forward(const Params& p, const KeysOf& keys_of) {
  const AttentionForward tensors{.out = p.out, .lse = p.lse, .q = p.q, .k = p.k, .v = p.v, .scale = p.scale};
  dispatch_real(p.q, [&]<class Real>() { attention_forward_as<Real>(tensors, keys_of); });
}

struct AttentionBackward {
  Tensor d_q, d_k, d_v, d_out, delta, lse, q, k, v;
  float scale;
};

template <class Real, class KeysOf>
void attention_backward_as(const AttentionBackward& p, const KeysOf& keys_of) {
  const std::int64_t B = p.q.dim(0), T = p.q.dim(1), HQ = p.q.dim(2), D = p.q.dim(3);
  const std::int64_t U = p.k.dim(1), HK = p.k.dim(2), G = HQ / HK;
  const Real scale = static_cast<Real>(p.scale);
  const Real *all_q = p.q.as<Real>(), *all_k = p.k.as<Real>(), *all_v = p.v.as<Real>();
  const Real *all_d_out = p.d_out.as<Real>(), *all_delta = p.delta.as<Real>(), *all_lse = p.lse.as<Real>();
  Real *all_d_q = p.d_q.as<Real>(), *all_d_k = p.d_k.as<Real>(), *all_d_v = p.d_v.as<Real>();

  // d_k and d_v are sums over tokens and over the G query heads of a key/value head. One thread takes a (sequence,
  // query head) pair and sums over its tokens into buffers [B, HQ, U, D]; then the heads are added in ascending order.
  // So the result does not depend on the number of threads.
  std::vector<Real> head_d_k(static_cast<std::size_t>(B * HQ * U * D)), head_d_v(head_d_k.size());
#pragma omp parallel
  {
    Keys keys;
#pragma omp for collapse(2) schedule(dynamic)
    for (std::int64_t b = 0; b < B; ++b)
      for (std::int64_t h = 0; h < HQ; ++h) {
        const std::int64_t kv_head = h / G;
        Real *d_k = head_d_k.data() + (b * HQ + h) * U * D, *d_v = head_d_v.data() + (b * HQ + h) * U * D;
        for (std::int64_t t = 0; t < T; ++t) {
          const std::int64_t row = (b * T + t) * HQ + h;
          const Real *q = all_q + row * D, *d_out = all_d_out + row * D;
          Real* d_q = all_d_q + row * D;
          keys_of(b, t, kv_head, keys);
          for (const std::int64_t u : keys) {
            const Real* k = all_k + ((b * U + u) * HK + kv_head) * D;
            const Real* v = all_v + ((b * U + u) * HK + kv_head) * D;
            const Real weight = exp_simd(scale * dot(q, k, D) - all_lse[row]);
            const Real d_score = weight * (dot(d_out, v, D) - all_delta[row]);
            axpy(scale * d_score, k, d_q, D);
            axpy(scale * d_score, q, d_k + u * D, D);
            axpy(weight, d_out, d_v + u * D, D);
          }
        }
      }
#pragma omp for collapse(2)
    for (std::int64_t b = 0; b < B; ++b)
      for (std::int64_t u = 0; u < U; ++u)
        for (std::int64_t h = 0; h < HQ; ++h) {
          const std::int64_t from = ((b * HQ + h) * U + u) * D, to = ((b * U + u) * HK + h / G) * D;
          axpy(Real{1}, head_d_k.data() + from, all_d_k + to, D);
          axpy(Real{1}, head_d_v.data() + from, all_d_v + to, D);
        }
  }
}

/// Adds to d_q, d_k and d_v. Params is AttentionBackward, or an op's struct with members of the same names.
template <class Params, class KeysOf>
void attention_backward(const Params& p, const KeysOf& keys_of) {
  const AttentionBackward tensors{.d_q = p.d_q,
                                  .d_k = p.d_k,
                                  .d_v = p.d_v,
                                  .d_out = p.d_out,
                                  .delta = p.delta,
                                  .lse = p.lse,
                                  .q = p.q,
                                  .k = p.k,
                                  .v = p.v,
                                  .scale = p.scale};
  dispatch_real(p.q, [&]<class Real>() { attention_backward_as<Real>(tensors, keys_of); });
}

}  // namespace ssa::cpu
