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
// With `fp8` the three products are in FP8 (fp8_matmul.h), with these operands per chunk:
//   logits   = {hidden, row blocks} @ {weight, square blocks}^T
//   d_hidden = {d_logits, row blocks} @ {weight^T, square blocks}^T
//   d_weight = {d_logits^T, row blocks} @ {hidden^T, square blocks}^T
// Losses and d_logits are computed from the logits as without; d_logits are rounded from act, as quantize_fp8 does.
// In d_logits^T every id has scales of its own: the gradients of an id that is no target nearby are probabilities,
// orders of magnitude smaller than those of targets, and would be rounded to zero next to them.
// With FP8, M, the chunk and H are multiples of 16, and rows of logits are padded to one.
// With a V that is not divisible by 8, padded rows of logits (padded_columns) make the products on CUDA several times
// as fast.
// The chunk size changes d_weight only by rounding. With the same chunk size a repeated run gives the same bits.
// A wrong shape or dtype throws Error. Targets are not checked: each is -100 or in [0, V).
#pragma once

#include <cstdint>

#include "kernels/common/dispatch.h"
#include "kernels/quantize_fp8/fp8_matrix.h"

namespace ssa {

/// The target of a token without a loss; PyTorch's default ignore_index.
inline constexpr std::int32_t kIgnoredLabel = -100;

/// Memory for the operands of the FP8 products, overwritten.
struct LinearCrossEntropyFp8 {
  Fp8Buffer hidden, hidden_t;      ///< head_input of one chunk, or with fp8_hidden_is_rounded of all, one after another
  Fp8Buffer weight, weight_t;      ///< [V, H], [H, V], square blocks; kept with fp8_weight_is_rounded
  Fp8Buffer d_logits, d_logits_t;  ///< [chunk, V], [V, chunk], row blocks
};

/// A chunk of hidden in FP8.
struct HeadInput {
  Fp8Matrix hidden, hidden_t;  ///< [tokens, H] row blocks, [H, tokens] square blocks
};

/// Where the operands have chunk `index`, of `tokens` tokens; only the last chunk may have fewer than `chunk`.
HeadInput head_input(const LinearCrossEntropyFp8& fp8, std::int64_t index, std::int64_t tokens, std::int64_t chunk,
                     std::int64_t H);

struct LinearCrossEntropy {
  Tensor loss_sum;       ///< [1] f64, accumulated
  Tensor losses = {};    ///< [M] f32, overwritten; optional
  Tensor d_hidden = {};  ///< [M, H] act, overwritten; absent = no gradients
  Tensor d_weight = {};  ///< [V, H] f32, overwritten or accumulated; present if d_hidden is
  Tensor logits;         ///< [chunk, V] act, working memory, rows may be padded; a chunk of tokens at a time
  Tensor hidden;         ///< [M, H] act, M at least 1; not read with fp8_hidden_is_rounded
  Tensor weight;         ///< [V, H] act
  Tensor targets;        ///< [M] i32: the next token id, or -100
  float gradient_scale = 0;
  bool accumulate = false;                     ///< add to d_weight instead of overwriting it
  const LinearCrossEntropyFp8* fp8 = nullptr;  ///< given with d_hidden only; null: products in act
  bool fp8_hidden_is_rounded = false;          ///< fp8->hidden and hidden_t have hidden, as quantize_fp8 rounds it
  bool fp8_weight_is_rounded = false;          ///< fp8->weight and weight_t are those of a call before with this weight
};
SSA_OP_WITH_SCRATCH(linear_cross_entropy, LinearCrossEntropy);

}  // namespace ssa
