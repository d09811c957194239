#include "compressed_attention.h"

#include <numeric>

#include "kernels/attention/attention_cpu.h"

namespace ssa::cpu {
namespace {

/// The blocks whose last token is at or before t.
auto keys_of(std::int64_t block_size) {
  return [block_size](std::int64_t, std::int64_t t, std::int64_t, Keys& keys) {
    keys.resize(static_cast<std::size_t>((t + 1) / block_size));
    std::iota(keys.begin(), keys.end(), std::int64_t{0});
  };
}

}  // namespace

void compressed_attention_forward(Stream&, const CompressedAttentionForward& p) {
  attention_forward(
      AttentionForward{.out = p.out, .lse = p.lse, .q = p.q, .k = p.k_mean, .v = p.v_mean, .scale = p.scale},
      keys_of(p.block_size));
}

void compressed_attention_backward(Stream& stream, const CompressedAttentionBackward& p) {
  if (!p.accumulate) stream.zero(p.d_q);
  stream.zero(p.d_k_mean);
  stream.zero(p.d_v_mean);
  attention_backward(AttentionBackward{.d_q = p.d_q,
                                       .d_k = p.d_k_mean,
                                       .d_v = p.d_v_mean,
                                       .d_out = p.d_out,
                                       .delta = p.delta,
                                       .lse = p.lse,
                                       .q = p.q,
                                       .k = p.k_mean,
                                       .v = p.v_mean,
                                       .scale = p.scale},
                     keys_of(p.block_size));
}

}  // namespace ssa::cpu
