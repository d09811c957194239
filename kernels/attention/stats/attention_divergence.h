// Evaluation statistics per query head: how far the output of sparse attention is from full attention, and how much
// probability full attention gives to the first tokens of a sequence (the attention sink). Sums over B * T positions:
//   distance[h] += |full - sparse|^2;   norm[h] += |full|^2     (sqrt(distance / norm) is the relative distance)
//   sink[h] += sum over u < sink_tokens, u <= t of exp(scale * q . k[u] - lse)
// With `documents`, the first tokens are those of the document piece of t.
// The sums have a fixed order: a repeated run gives the same bits. A wrong shape or dtype, or sink_tokens below 1,
// throws Error.
#pragma once

#include "kernels/attention/documents.h"
#include "kernels/common/dispatch.h"

namespace ssa {

struct AttentionDivergence {
  Tensor distance;  ///< [HQ] f64, accumulated
  Tensor norm;      ///< [HQ] f64, accumulated
  Tensor sink;      ///< [HQ] f64, accumulated
  Tensor full;      ///< [B, T, HQ, D] act: output of full causal attention
  Tensor sparse;    ///< [B, T, HQ, D] act: output of attention over the selected blocks
  Tensor q;         ///< [B, T, HQ, D] act
  Tensor k;         ///< [B, T, HK, D] act
  Tensor lse;       ///< [B, T, HQ] f32, of full causal attention
  DocumentBounds documents = {};
  float scale;
  std::int64_t sink_tokens;
};
SSA_OP_WITH_SCRATCH(attention_divergence, AttentionDivergence);

}  // namespace ssa
