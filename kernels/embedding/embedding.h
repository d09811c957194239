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
SSA_OP(embedding_backward, EmbeddingBackward);

/// The CUDA backward sorts the positions by id and adds them up in chunks of this many. A chunk leaves at most two
/// partial sums: of the id it shares with the chunk before, and of the id it shares with the chunk after.
inline constexpr std::int64_t kEmbeddingChunk = 32;
inline std::int64_t embedding_partials(std::int64_t M) { return (M + kEmbeddingChunk - 1) / kEmbeddingChunk * 2; }

/// Bytes of Stream::scratch that the backward needs: the partial sums, then two arrays of M 64-bit sort keys.
inline std::size_t embedding_backward_scratch_bytes(DeviceKind kind, std::int64_t M, std::int64_t H) {
  if (kind == DeviceKind::cpu) return 0;
  return static_cast<std::size_t>(embedding_partials(M) * H) * sizeof(float) +
         static_cast<std::size_t>(2 * M) * sizeof(std::uint64_t);
}

}  // namespace ssa
