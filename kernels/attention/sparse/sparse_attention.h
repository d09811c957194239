// Causal attention over the selected blocks: softmax over the tokens u <= t of the blocks in indices[t].
#pragma once

#include "kernels/common/dispatch.h"

namespace ssa {

struct SparseAttentionForward {
  Tensor out;      ///< [B, T, HQ, D] act
  Tensor lse;      ///< [B, T, HQ] f32
  Tensor q;        ///< [B, T, HQ, D] act
  Tensor k;        ///< [B, T, HK, D] act
  Tensor v;        ///< [B, T, HK, D] act
  Tensor indices;  ///< [B, T, HK, S'] i32 as select_blocks leaves them: distinct, ascending, -1 behind; the own block
                   ///< among them
  float scale;
  std::int64_t block_size;
};
SSA_OP(sparse_attention_forward, SparseAttentionForward);

/// As in causal_attention.h, with P zero outside the selection.
struct SparseAttentionBackward {
  Tensor d_q;      ///< [B, T, HQ, D] f32
  Tensor d_k;      ///< [B, T, HK, D] f32
  Tensor d_v;      ///< [B, T, HK, D] f32
  Tensor d_out;    ///< [B, T, HQ, D] act
  Tensor delta;    ///< [B, T, HQ] f32
  Tensor lse;      ///< [B, T, HQ] f32
  Tensor q;        ///< [B, T, HQ, D] act
  Tensor k;        ///< [B, T, HK, D] act
  Tensor v;        ///< [B, T, HK, D] act
  Tensor indices;  ///< [B, T, HK, S'] i32
  float scale;
  std::int64_t block_size;
  bool accumulate = false;  ///< add to d_q, d_k, d_v instead of overwriting them
};
SSA_OP(sparse_attention_backward, SparseAttentionBackward);

/// Scratch that the backward reserves on the stream, `slots` being S'; 0 on the CPU. It does not grow with B beyond
/// 640 MiB, or what one row and key/value head takes: more are worked on in turn.
std::size_t sparse_attention_backward_scratch_bytes(DeviceKind kind, std::int64_t B, std::int64_t T, std::int64_t HQ,
                                                    std::int64_t HK, std::int64_t head_dim, std::int64_t block_size,
                                                    std::int64_t slots);
namespace cuda {
std::size_t sparse_attention_backward_scratch_bytes(std::int64_t B, std::int64_t T, std::int64_t HQ, std::int64_t HK,
                                                    std::int64_t head_dim, std::int64_t block_size, std::int64_t slots);
}

}  // namespace ssa
