// The products of linear_cross_entropy for one chunk of tokens, in act or in FP8. Both backends call them.
#pragma once

#include <algorithm>

#include "kernels/fp8_matmul/fp8_matmul.h"
#include "kernels/linear_cross_entropy/linear_cross_entropy.h"
#include "kernels/matmul/matmul.h"
#include "kernels/quantize_fp8/quantize_fp8.h"

namespace ssa {

/// Tokens [begin, end) and their operands; the FP8 ones are absent without p.fp8.
struct HeadChunk {
  std::int64_t begin, end;
  Tensor logits, hidden, d_hidden;
  HeadInput input = {};
  Fp8Matrix d_logits_fp8 = {}, d_logits_t_fp8 = {};

  HeadChunk(const LinearCrossEntropy& p, std::int64_t first, std::int64_t last)
      : begin(first), end(last), logits(p.logits.rows(0, last - first)), hidden(p.hidden.rows(first, last)) {
    if (p.d_hidden) d_hidden = p.d_hidden.rows(first, last);
    if (!p.fp8) return;
    const std::int64_t tokens = last - first, H = p.hidden.dim(1), V = p.weight.dim(0);
    const std::int64_t chunk = std::min(p.logits.dim(0), p.hidden.dim(0));
    input = head_input(*p.fp8, p.fp8_hidden_is_rounded ? begin / chunk : 0, tokens, chunk, H);
    d_logits_fp8 = p.fp8->d_logits.matrix(tokens, V, Fp8Blocks::row);
    d_logits_t_fp8 = p.fp8->d_logits_t.matrix(V, tokens, Fp8Blocks::row);
  }
};

inline Fp8Matrix head_weight_fp8(const LinearCrossEntropy& p) {
  return p.fp8->weight.matrix(p.weight.dim(0), p.weight.dim(1), Fp8Blocks::square);
}
inline Fp8Matrix head_weight_t_fp8(const LinearCrossEntropy& p) {
  return p.fp8->weight_t.matrix(p.weight.dim(1), p.weight.dim(0), Fp8Blocks::square);
}

/// Before the first chunk: rounds the weight, unless it is rounded.
inline void prepare_head(Stream& stream, const LinearCrossEntropy& p) {
  if (p.fp8 && !p.fp8_weight_is_rounded)
    quantize_fp8(stream, {.plain = head_weight_fp8(p), .transposed = head_weight_t_fp8(p), .x = p.weight});
}

inline void head_logits(Stream& stream, const LinearCrossEntropy& p, const HeadChunk& c) {
  if (!p.fp8) return matmul(stream, {.out = c.logits, .a = c.hidden, .b = p.weight, .transpose_b = true});
  if (!p.fp8_hidden_is_rounded)
    quantize_fp8(stream, {.plain = c.input.hidden, .transposed = c.input.hidden_t, .x = c.hidden});
  fp8_matmul(stream, {.out = c.logits, .a = c.input.hidden, .b = head_weight_fp8(p)});
}

/// Reads d_logits from c.logits, or with p.fp8 from c.d_logits_fp8 and c.d_logits_t_fp8.
inline void head_gradients(Stream& stream, const LinearCrossEntropy& p, const HeadChunk& c) {
  const bool accumulate = p.accumulate || c.begin > 0;
  if (p.fp8) {
    fp8_matmul(stream, {.out = c.d_hidden, .a = c.d_logits_fp8, .b = head_weight_t_fp8(p)});
    fp8_matmul(stream, {.out = p.d_weight, .a = c.d_logits_t_fp8, .b = c.input.hidden_t, .accumulate = accumulate});
    return;
  }
  matmul(stream, {.out = c.d_hidden, .a = c.logits, .b = p.weight});
  matmul(stream, {.out = p.d_weight, .a = c.logits, .b = c.hidden, .transpose_a = true, .accumulate = accumulate});
}

}  // namespace ssa
