// Token embedding: out[m] = weight[ids[m]].
#pragma once

#include "kernels/common/dispatch.h"

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

/// On CUDA, rows are added up in pieces of this many positions sorted by id; each piece leaves two shares at most.
inline constexpr std::int64_t kEmbeddingPiece = 32;
inline std::int64_t embedding_partials(std::int64_t M) { return (M + kEmbeddingPiece - 1) / kEmbeddingPiece * 2; }

/// Stream::scratch that the backward takes: on CUDA the shares, and positions with their ids, sorted by tiles and all.
inline std::size_t embedding_backward_scratch_bytes(DeviceKind kind, std::int64_t M, std::int64_t H) {
  if (kind == DeviceKind::cpu) return 0;
  return static_cast<std::size_t>(embedding_partials(M) * H) * sizeof(float) +
         static_cast<std::size_t>(2 * M) * sizeof(std::uint64_t);
}

}  // namespace ssa
