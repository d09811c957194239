#include "causal_attention.h"

#include <numeric>

#include "kernels/attention/attention_cpu.h"

namespace ssa::cpu {
namespace {

/// The tokens that token t attends to: (t - window, t], or [0, t] without a window.
auto keys_of(std::int64_t window) {
  return [window](std::int64_t, std::int64_t t, std::int64_t, Keys& keys) {
    const std::int64_t first = window > 0 ? std::max<std::int64_t>(0, t - window + 1) : 0;
    keys.resize(static_cast<std::size_t>(t + 1 - first));
    std::iota(keys.begin(), keys.end(), first);
  };
}

}  // namespace

void causal_attention_forward(Stream&, const CausalAttentionForward& p) { attention_forward(p, keys_of(p.window)); }

void causal_attention_backward(Stream& stream, const CausalAttentionBackward& p) {
  if (!p.accumulate)
    for (const Tensor& gradient : {p.d_q, p.d_k, p.d_v}) stream.zero(gradient);
  attention_backward(p, keys_of(p.window));
}

}  // namespace ssa::cpu
