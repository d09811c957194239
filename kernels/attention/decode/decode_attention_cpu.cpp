#include "decode_attention.h"

#include "kernels/attention/attention_cpu.h"

namespace ssa::cpu {
namespace {

/// The keys that query (b, t) attends to.
auto cached_keys_of(const DecodeAttention& p) {
  const std::int64_t HK = p.k.dim(2), slots = p.indices ? p.indices.dim(3) : 0;
  return [&p, T = p.q.dim(1), HK, slots, positions = p.positions.as<std::int32_t>(),
          indices = p.indices.as_or_null<std::int32_t>()](std::int64_t b, std::int64_t t, std::int64_t kv_head,
                                                          Keys& keys) {
    const std::int64_t position = positions[b * T + t], end = (position + 1) / p.tokens_per_key;
    if (indices) return list_tokens(indices + ((b * T + t) * HK + kv_head) * slots, slots, p.block_size, end, keys);
    keys.clear();
    const std::int64_t first = p.window > 0 ? std::max<std::int64_t>(0, position - p.window + 1) : 0;
    for (std::int64_t u = first; u < end; ++u) keys.push_back(u);
  };
}

template <class Real>
void apply_gates(const DecodeAttention& p) {
  const std::int64_t D = p.out.dim(3), heads = p.out.count() / D;
  const Real* gates = p.gates.as<Real>();
  Real* out = p.out.as<Real>();
  for (std::int64_t h = 0; h < heads; ++h)
    for (std::int64_t d = 0; d < D; ++d) out[h * D + d] *= gates[3 * h + 1];
}

}  // namespace

void decode_attention(Stream&, const DecodeAttention& p) {
  attention_forward(AttentionForward{.out = p.out, .lse = {}, .q = p.q, .k = p.k, .v = p.v, .scale = p.scale},
                    cached_keys_of(p));
  if (p.gates) dispatch_real(p.out, [&]<class Real>() { apply_gates<Real>(p); });
}

}  // namespace ssa::cpu
