// Token embedding (the input layer of Llama):
//   forward:  out[m] = weight[ids[m]]
//   backward: d_weight[v] += sum of d_out[m] over the positions m with ids[m] == v
// The backward adds in an order that depends only on the ids, so that a repeated run gives the same bits.
// A wrong shape or dtype throws Error. An id outside [0, V) is not checked here: the data loader checks ids.
#pragma once

#include "kernels/common/dispatch.h"

namespace ssa {

struct EmbeddingForward {
  Tensor out;     ///< [M, H] act, overwritten
  Tensor ids;     ///< [M] i32, each in [0, V)
  Tensor weight;  ///< [V, H] act
};
SSA_OP(embedding_forward, EmbeddingForward);

struct EmbeddingBackward {
  Tensor d_weight;  ///< [V, H] f32, accumulated; rows of ids that do not occur are not touched
  Tensor d_out;     ///< [M, H] act
  Tensor ids;       ///< [M] i32, each in [0, V)
};
SSA_OP_WITH_SCRATCH(embedding_backward, EmbeddingBackward);

/// The CUDA backward sorts the positions by id and adds them up in chunks of this many. A chunk leaves at most two
/// partial sums: of the id it shares with the chunk before, and of the id it shares with the chunk after.
inline constexpr std::int64_t kEmbeddingChunk = 32;
inline std::int64_t embedding_partials(std::int64_t M) { return (M + kEmbeddingChunk - 1) / kEmbeddingChunk * 2; }

}  // namespace ssa
