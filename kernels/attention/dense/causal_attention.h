// Full causal attention, or with window > 0 causal sliding-window attention; grouped query heads.
//   out[t] = sum over u of softmax(scale * q[t] . k[u]) v[u],   u in (t - window, t], or [0, t] when window is 0
// With `documents`, only the u that are in the document piece of t.
#pragma once

#include "kernels/attention/documents.h"
#include "kernels/common/dispatch.h"

namespace ssa {

struct CausalAttentionForward {
  Tensor out;  ///< [B, T, HQ, D] act
  Tensor lse;  ///< [B, T, HQ] f32: natural log of the sum of exp(scaled scores)
  Tensor q;    ///< [B, T, HQ, D] act
  Tensor k;    ///< [B, T, HK, D] act
  Tensor v;    ///< [B, T, HK, D] act
  DocumentBounds documents = {};
  float scale;
  std::int64_t window = 0;  ///< tokens attended to, the query's own included; 0 = all
};
SSA_OP_WITH_SCRATCH(causal_attention_forward, CausalAttentionForward);

/// With P = exp(S - lse) and dP = d_out v^T:  dS = P (dP - delta);  d_q = scale dS k, d_k = scale dS^T q, d_v = P^T
/// d_out, the last two summed over the G query heads of a key/value head. The order of every sum is fixed: the same
/// inputs give the same bits in every run, on CUDA too.
struct CausalAttentionBackward {
  Tensor d_q;    ///< [B, T, HQ, D] f32
  Tensor d_k;    ///< [B, T, HK, D] f32
  Tensor d_v;    ///< [B, T, HK, D] f32
  Tensor d_out;  ///< [B, T, HQ, D] act
  Tensor delta;  ///< [B, T, HQ] f32: sum over D of d_out * out, of the stored (rounded) values
  Tensor lse;    ///< [B, T, HQ] f32
  Tensor q;      ///< [B, T, HQ, D] act
  Tensor k;      ///< [B, T, HK, D] act
  Tensor v;      ///< [B, T, HK, D] act
  DocumentBounds documents = {};
  float scale;
  std::int64_t window = 0;
  bool accumulate = false;  ///< add to d_q, d_k, d_v instead of overwriting them
};
SSA_OP_WITH_SCRATCH(causal_attention_backward, CausalAttentionBackward);

}  // namespace ssa
