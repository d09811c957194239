// Language-model head and cross entropy in one op, over chunks of tokens, so that the logits of a whole batch never
// exist:
//   logits = hidden @ weight^T
//   losses[m] = logsumexp(logits[m]) - logits[m, targets[m]], and 0 where targets[m] is -100
//   loss_sum += sum of losses
// With d_hidden and d_weight, the same pass computes the gradients of gradient_scale * (sum of losses):
//   d_logits[m] = gradient_scale * (softmax(logits[m]) - onehot(targets[m])), and 0 where targets[m] is -100
//   d_hidden = d_logits @ weight
//   d_weight = d_logits^T @ hidden, or += with `accumulate`
// The loss is PyTorch's cross_entropy with ignore_index -100 and reduction "sum".
// The chunk size changes d_weight only by rounding. With the same chunk size a repeated run gives the same bits.
// A wrong shape or dtype throws Error. Targets are not checked: each is -100 or in [0, V).
#pragma once

#include "kernels/common/dispatch.h"

namespace ssa {

struct LinearCrossEntropy {
  Tensor loss_sum;       ///< [1] f64, accumulated
  Tensor losses = {};    ///< [M] f32, overwritten; optional
  Tensor d_hidden = {};  ///< [M, H] act, overwritten; absent = no gradients
  Tensor d_weight = {};  ///< [V, H] f32, overwritten or accumulated; present if d_hidden is
  Tensor logits;         ///< [chunk, V] act, working memory; `chunk` tokens are processed at a time
  Tensor hidden;         ///< [M, H] act, M at least 1
  Tensor weight;         ///< [V, H] act
  Tensor targets;        ///< [M] i32: the next token id, or -100
  float gradient_scale = 0;
  bool accumulate = false;  ///< add to d_weight instead of overwriting it
};
SSA_OP_WITH_SCRATCH(linear_cross_entropy, LinearCrossEntropy);

}  // namespace ssa
