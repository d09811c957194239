#include "support/dense_attention.h"

namespace ssa::test {

DenseAttention dense_attention(const AttentionDims& dims, std::int64_t U, const Values& q, const Values& k,
                               const Values& v, const AttentionMask& mask) {
  const std::int64_t D = dims.D, key_stride = dims.HK * D;
  SSA_CHECK(std::ssize(q) == dims.query_shape().count(), "dense attention: q has ", q.size(), " values");
  SSA_CHECK(std::ssize(k) == dims.key_shape(U).count(), "dense attention: k has ", k.size(), " values");
  SSA_CHECK(v.size() == k.size(), "dense attention: v has ", v.size(), " values");
  DenseAttention r{Values(q.size(), 0.0), Values(static_cast<std::size_t>(dims.row_shape().count()), 0.0), {}};
  r.probability.assign(r.lse.size() * static_cast<std::size_t>(U), 0.0);
  for (std::int64_t b = 0; b < dims.B; ++b)
    for (std::int64_t t = 0; t < dims.T; ++t)
      for (std::int64_t kv_head = 0; kv_head < dims.HK; ++kv_head) {
        std::vector<std::int64_t> keys;
        for (std::int64_t u = 0; u < U; ++u)
          if (mask(b, t, kv_head, u)) keys.push_back(u);
        const double *head_k = k.data() + (b * U * dims.HK + kv_head) * D,
                     *head_v = v.data() + (b * U * dims.HK + kv_head) * D;
        for (std::int64_t g = 0; g < dims.G; ++g) {
          const std::int64_t row = (b * dims.T + t) * dims.HQ() + kv_head * dims.G + g;
          const double* query = q.data() + row * D;
          double *p = r.probability.data() + row * U, *out = r.out.data() + row * D, sum = 0;
          for (const std::int64_t u : keys) {
            const double* key = head_k + u * key_stride;
            double score = 0;
            for (std::int64_t i = 0; i < D; ++i) score += query[i] * key[i];
            p[u] = std::exp(score * static_cast<double>(dims.scale()));
            sum += p[u];
          }
          r.lse[static_cast<std::size_t>(row)] = std::log(sum);
          for (const std::int64_t u : keys) {
            const double* value = head_v + u * key_stride;
            p[u] /= sum;
            for (std::int64_t i = 0; i < D; ++i) out[i] += p[u] * value[i];
          }
        }
      }
  return r;
}

}  // namespace ssa::test
