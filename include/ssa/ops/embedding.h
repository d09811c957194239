// Token embedding: out[m] = weight[ids[m]].
#pragma once

#include "ssa/ops/dispatch.h"

namespace ssa {

struct EmbeddingForward {
  Tensor out;     ///< [M, H] act
  Tensor ids;     ///< [M] i32, each in [0, V): the data loader guarantees it
  Tensor weight;  ///< [V, H] act
};
SSA_OP(embedding_forward, EmbeddingForward);

/// d_weight[v] += sum of d_out[m] over the positions m with ids[m] == v, in ascending order of m.
struct EmbeddingBackward {
  Tensor d_weight;  ///< [V, H] f32, accumulated
  Tensor d_out;     ///< [M, H] act
  Tensor ids;       ///< [M] i32
};
SSA_OP(embedding_backward, EmbeddingBackward);

/// Stream::scratch that the backward takes: on CUDA the positions sorted by id, and each one's rank.
inline std::size_t embedding_backward_scratch_bytes(DeviceKind kind, std::int64_t M) {
  return kind == DeviceKind::cuda ? static_cast<std::size_t>(2 * M) * sizeof(std::int32_t) : 0;
}

}  // namespace ssa
