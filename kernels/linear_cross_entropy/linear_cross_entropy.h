// LM head and cross entropy in one op, over chunks of tokens: the logits of the whole batch never exist.
//   logits = hidden @ weight^T;   losses[m] = logsumexp(logits[m]) - logits[m, targets[m]], 0 where targets[m] is -100
// With d_hidden given, gradients of  gradient_scale * sum of losses  are computed in the same pass:
//   d_hidden = d_logits @ weight;   d_weight = d_logits^T @ hidden, or += with accumulate
#pragma once

#include "kernels/common/dispatch.h"

namespace ssa {

struct LinearCrossEntropy {
  Tensor loss_sum;       ///< [1] f64, accumulated: sum of losses
  Tensor losses = {};    ///< [M] f32, when wanted
  Tensor d_hidden = {};  ///< [M, H] act; absent = no gradients
  Tensor d_weight = {};  ///< [V, H] f32; given iff d_hidden is
  Tensor logits;         ///< [chunk, V] act: working memory; chunk rows are processed at a time
  Tensor hidden;         ///< [M, H] act, M at least 1
  Tensor weight;         ///< [V, H] act
  Tensor targets;        ///< [M] i32: the id to predict at m, or -100
  float gradient_scale = 0;
  bool accumulate = false;  ///< add to d_weight instead of overwriting it
};
SSA_OP(linear_cross_entropy, LinearCrossEntropy);

/// Stream::scratch that the op takes: on CUDA the losses, which are summed in order at the end.
inline std::size_t linear_cross_entropy_scratch_bytes(DeviceKind kind, std::int64_t M) {
  return kind == DeviceKind::cuda ? static_cast<std::size_t>(M) * sizeof(float) : 0;
}

}  // namespace ssa
