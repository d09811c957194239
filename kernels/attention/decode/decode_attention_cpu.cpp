#include "decode_attention.h"

#include "kernels/attention/attention_cpu.h"

namespace ssa::cpu {
namespace {

/// Returns the function that lists the keys that query (b, t) attends.
auto keys_of(const DecodeAttention& p) {
  const std::int64_t HK = p.k.dim(2), slots = p.indices ? p.indices.dim(3) : 0;
  return [&p, T = p.q.dim(1), HK, slots, positions = p.positions.as<std::int32_t>(),
          indices = p.indices.as_or_null<std::int32_t>()](std::int64_t b, std::int64_t t, std::int64_t kv_head,
                                                          Keys& keys) {
    const std::int64_t position = positions[b * T + t], end = (position + 1) / p.tokens_per_key;
    keys.clear();
    if (!indices) {
      const std::int64_t first = p.window > 0 ? std::max<std::int64_t>(0, position - p.window + 1) : 0;
      for (std::int64_t u = first; u < end; ++u) keys.push_back(u);
      return;
    }
    const std::int32_t* blocks = indices + ((b * T + t) * HK + kv_head) * slots;
    for (std::int64_t s = 0; s < slots && blocks[s] >= 0; ++s) {
      const std::int64_t first = blocks[s] * p.block_size;
      for (std::int64_t u = first; u < std::min(first + p.block_size, end); ++u) keys.push_back(u);
    }
  };
}

}  // namespace

void decode_attention(Stream&, const DecodeAttention& p) {
  dispatch_real(p.q, [&]<class Real>() {
    attention_forward<Real>({.out = p.out, .lse = {}, .q = p.q, .k = p.k, .v = p.v, .scale = p.scale}, keys_of(p));
  });
}

}  // namespace ssa::cpu
