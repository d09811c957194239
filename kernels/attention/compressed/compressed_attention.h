// Attention over the mean keys and values of complete blocks (the compressed branch of NSA, arXiv 2502.11089, eq. 7):
//   out[t] = sum of softmax(scale * q[t] . k_mean[n]) v_mean[n] over the blocks n with (n + 1) block_size <= t + 1
// With `documents`, only the blocks that are in the document piece of t. A token without a complete block has out = 0
// and lse = -infinity.
#pragma once

#include "kernels/attention/documents.h"
#include "kernels/common/dispatch.h"

namespace ssa {

struct CompressedAttentionForward {
  Tensor out;     ///< [B, T, HQ, D] act
  Tensor lse;     ///< [B, T, HQ] f32
  Tensor q;       ///< [B, T, HQ, D] act
  Tensor k_mean;  ///< [B, N, HK, D] act
  Tensor v_mean;  ///< [B, N, HK, D] act
  DocumentBounds documents = {};
  float scale;
  std::int64_t block_size;
};
SSA_OP(compressed_attention_forward, CompressedAttentionForward);

/// As in causal_attention.h. d_k_mean and d_v_mean are overwritten; blocks that no token attends to get 0.
struct CompressedAttentionBackward {
  Tensor d_q;       ///< [B, T, HQ, D] f32
  Tensor d_k_mean;  ///< [B, N, HK, D] f32
  Tensor d_v_mean;  ///< [B, N, HK, D] f32
  Tensor d_out;     ///< [B, T, HQ, D] act
  Tensor delta;     ///< [B, T, HQ] f32
  Tensor lse;       ///< [B, T, HQ] f32
  Tensor q;         ///< [B, T, HQ, D] act
  Tensor k_mean;    ///< [B, N, HK, D] act
  Tensor v_mean;    ///< [B, N, HK, D] act
  DocumentBounds documents = {};
  float scale;
  std::int64_t block_size;
  bool accumulate = false;  ///< add to d_q instead of overwriting it
};
SSA_OP_WITH_SCRATCH(compressed_attention_backward, CompressedAttentionBackward);

}  // namespace ssa
