#include "causal_attention.h"
#include "dense.cuh"

namespace ssa::cuda {

void causal_attention_forward(Stream& stream, const CausalAttentionForward& p) {
  constexpr auto op = "causal_attention_forward";
  SSA_CHECK(!p.documents, op, ": found documents, expected none: the CUDA kernels have no document mask");
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
  if (p.window > 0 && p.window < T)
    dense_forward(stream, op, 0, a, B, D, Windowed{static_cast<int>(p.window)});
  else
    dense_forward(stream, op, 0, a, B, D, Causal{});
}

void causal_attention_backward(Stream& stream, const CausalAttentionBackward& p) {
  constexpr auto op = "causal_attention_backward";
  SSA_CHECK(!p.documents, op, ": found documents, expected none: the CUDA kernels have no document mask");
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
  if (p.window > 0 && p.window < T)
    dense_backward(stream, op, 0, a, D, Windowed{static_cast<int>(p.window)});
  else
    dense_backward(stream, op, 0, a, D, Causal{});
}

std::size_t scratch_bytes(const CausalAttentionBackward& p) {
  return dense_backward_scratch_bytes(p.q.dim(0), p.q.dim(1), p.k.dim(1), p.q.dim(2), p.k.dim(2));
}

}  // namespace ssa::cuda
