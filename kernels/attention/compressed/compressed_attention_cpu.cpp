#include "compressed_attention.h"

#include <numeric>

#include "kernels/attention/attention_cpu.h"

namespace ssa::cpu {
namespace {

/// The blocks of the document piece of t whose last token is at or before t.
template <class Params>
auto blocks_of(const Params& p) {
  return [block_size = p.block_size, begin_of = PieceBegin(p.documents)](std::int64_t b, std::int64_t t, std::int64_t,
                                                                         Keys& keys) {
    const std::int64_t first = begin_of(b, t) / block_size;
    keys.resize(static_cast<std::size_t>((t + 1) / block_size - first));
    std::iota(keys.begin(), keys.end(), first);
  };
}

}  // namespace

void compressed_attention_forward(Stream&, const CompressedAttentionForward& p) {
  attention_forward(
      AttentionForward{.out = p.out, .lse = p.lse, .q = p.q, .k = p.k_mean, .v = p.v_mean, .scale = p.scale},
      blocks_of(p));
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
                     blocks_of(p));
}

}  // namespace ssa::cpu
