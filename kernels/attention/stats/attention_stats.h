// Evaluation statistics per query head: the probability that full attention gives to the selected blocks, and its
// entropy in nats. With P[u] = exp(scale * q . k[u] - lse), u <= t, sums over B * T positions:
//   selected_mass[h] += sum of P[u] over u in the blocks indices[t]
//   entropy[h] += -sum over u of P[u] log P[u]
// With `documents`, only the u that are in the document piece of t.
// The sums have a fixed order: a repeated run gives the same bits. A wrong shape or dtype throws Error, on CUDA also a
// head size, group or block size that the attention kernels do not support.
#pragma once

#include "kernels/attention/documents.h"
#include "kernels/common/dispatch.h"

namespace ssa {

struct AttentionStats {
  Tensor selected_mass;  ///< [HQ] f64, accumulated
  Tensor entropy;        ///< [HQ] f64, accumulated
  Tensor q;              ///< [B, T, HQ, D] act
  Tensor k;              ///< [B, T, HK, D] act
  Tensor lse;            ///< [B, T, HQ] f32, of full causal attention
  Tensor indices;        ///< [B, T, HK, S'] i32, from select_blocks
  DocumentBounds documents = {};
  float scale;
  std::int64_t block_size;
};
SSA_OP_WITH_SCRATCH(attention_stats, AttentionStats);

}  // namespace ssa
