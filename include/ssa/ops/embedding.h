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

}  // namespace ssa
