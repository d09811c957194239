// Causal attention over the selected blocks of keys: the sparse attention of SSA (arXiv 2511.20102), of MoBA, and the
// selected branch of Native Sparse Attention (arXiv 2502.11089, section 3.3.2).
//   out[t] = sum over u of softmax(scale * q[t] . k[u]) v[u],   u <= t in the blocks of indices[t]
//   lse[t] = log of the sum over u of exp(scale * q[t] . k[u])
// Query head h reads key/value head h / G and its indices. out and lse are overwritten and may not alias inputs. Every
// sum has a fixed order: a repeated run on the same device gives the same bits.
#pragma once

#include "kernels/common/dispatch.h"

namespace ssa {

struct SparseAttentionForward {
  Tensor out;      ///< [B, T, HQ, D] act
  Tensor lse;      ///< [B, T, HQ] f32
  Tensor q;        ///< [B, T, HQ, D] act
  Tensor k;        ///< [B, T, HK, D] act
  Tensor v;        ///< [B, T, HK, D] act
  Tensor indices;  ///< [B, T, HK, S'] i32, as from select_blocks: distinct blocks, ascending, including the token's
                   ///< own, then -1. Not checked.
  float scale;
  std::int64_t block_size;
};
SSA_OP(sparse_attention_forward, SparseAttentionForward);

/// With S = q k^T, P = exp(scale S - lse) on the selection and 0 elsewhere, dP = d_out v^T, dS = P (dP - delta):
///   d_q = scale dS k,  d_k = scale dS^T q,  d_v = P^T d_out,  the last two summed over the G query heads
/// Gradients are overwritten, or added to with accumulate; they may not alias inputs. The selection has no gradient.
struct SparseAttentionBackward {
  Tensor d_q;      ///< [B, T, HQ, D] f32
  Tensor d_k;      ///< [B, T, HK, D] f32
  Tensor d_v;      ///< [B, T, HK, D] f32
  Tensor d_out;    ///< [B, T, HQ, D] act
  Tensor delta;    ///< [B, T, HQ] f32: sum over D of d_out * out, of the stored (rounded) values
  Tensor lse;      ///< [B, T, HQ] f32, from the forward
  Tensor q;        ///< [B, T, HQ, D] act
  Tensor k;        ///< [B, T, HK, D] act
  Tensor v;        ///< [B, T, HK, D] act
  Tensor indices;  ///< [B, T, HK, S'] i32
  float scale;
  std::int64_t block_size;
  bool accumulate = false;  ///< add to d_q, d_k, d_v instead of overwriting them
};
SSA_OP_WITH_SCRATCH(sparse_attention_backward, SparseAttentionBackward);

}  // namespace ssa
