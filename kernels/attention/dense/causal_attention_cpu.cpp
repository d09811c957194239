#include "causal_attention.h"

#include <numeric>

#include "kernels/attention/attention_cpu.h"

namespace ssa::cpu {
namespace {

/// The tokens that token t attends to: (t - window, t], or [0, t] without a window, in the document piece of t.
template <class Params>
auto window_keys_of(const Params& p) {
  return [window = p.window, begin_of = PieceBegin(p.documents)](std::int64_t b, std::int64_t t, std::int64_t,
                                                                 Keys& keys) {
    const std::int64_t begin = begin_of(b, t), first = window > 0 ? std::max(begin, t - window + 1) : begin;
    keys.resize(static_cast<std::size_t>(t + 1 - first));
    std::iota(keys.begin(), keys.end(), first);
  };
}

}  // namespace

void causal_attention_forward(Stream&, const CausalAttentionForward& p) { attention_forward(p, window_keys_of(p)); }

void causal_attention_backward(Stream& stream, const CausalAttentionBackward& p) {
  if (!p.accumulate)
    for (const Tensor& gradient : {p.d_q, p.d_k, p.d_v}) stream.zero(gradient);
  attention_backward(p, window_keys_of(p));
}

}  // namespace ssa::cpu
