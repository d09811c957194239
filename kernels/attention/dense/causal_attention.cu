#include "causal_attention.h"
#include "dense.cuh"

namespace ssa::cuda {
namespace {

/// Calls run(mask) with the mask of the op.
template <class Params, class Run>
void with_mask(const Params& p, Run&& run) {
  const auto of_documents = [&](const auto& base) {
    if (p.documents)
      run(in_documents(base, p.documents));
    else
      run(base);
  };
  if (p.window > 0 && p.window < p.q.dim(1))
    of_documents(Windowed{static_cast<int>(p.window)});
  else
    of_documents(Causal{});
}

}  // namespace

void causal_attention_forward(Stream& stream, const CausalAttentionForward& p) {
  constexpr auto op = "causal_attention_forward";
  const int T = static_cast<int>(p.q.dim(1)), D = static_cast<int>(p.q.dim(3)), B = static_cast<int>(p.q.dim(0));
  const DenseForwardArgs a = {.out = bf16(p.out),
                              .lse = p.lse.as<float>(),
                              .q = bf16(p.q),
                              .k = bf16(p.k),
                              .v = bf16(p.v),
                              .T = T,
                              .U = T,
                              .HQ = static_cast<int>(p.q.dim(2)),
                              .HK = static_cast<int>(p.k.dim(2)),
                              .scale = p.scale};
  with_mask(p, [&](const auto& mask) { dense_forward(stream, op, 0, a, B, D, mask); });
}

void causal_attention_backward(Stream& stream, const CausalAttentionBackward& p) {
  constexpr auto op = "causal_attention_backward";
  const int T = static_cast<int>(p.q.dim(1)), D = static_cast<int>(p.q.dim(3));
  const DenseBackwardArgs a = {.d_q = p.d_q.as<float>(),
                               .d_k = p.d_k.as<float>(),
                               .d_v = p.d_v.as<float>(),
                               .d_out = bf16(p.d_out),
                               .delta = p.delta.as<float>(),
                               .lse = p.lse.as<float>(),
                               .q = bf16(p.q),
                               .k = bf16(p.k),
                               .v = bf16(p.v),
                               .B = static_cast<int>(p.q.dim(0)),
                               .T = T,
                               .U = T,
                               .HQ = static_cast<int>(p.q.dim(2)),
                               .HK = static_cast<int>(p.k.dim(2)),
                               .scale = p.scale,
                               .accumulate_q = p.accumulate,
                               .accumulate_kv = p.accumulate};
  with_mask(p, [&](const auto& mask) { dense_backward(stream, op, 0, a, D, mask); });
}

std::size_t scratch_bytes(const CausalAttentionForward&) { return kDenseForwardScratchBytes; }

std::size_t scratch_bytes(const CausalAttentionBackward& p) {
  return dense_backward_scratch_bytes(p.q.dim(0), p.q.dim(1), p.k.dim(1), p.q.dim(2), p.k.dim(2));
}

}  // namespace ssa::cuda
