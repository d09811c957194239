// The three products of a linear layer y = x @ w^T, with x [M, K] and w [N, K]: in the dtype of the activations, or in
// FP8 if operands for it are given. docs/fp8.md has the scales of the operands.
#pragma once

#include "kernels/fp8_matmul/fp8_matmul.h"
#include "kernels/matmul/matmul.h"
#include "kernels/quantize_fp8/quantize_fp8.h"
#include "ssa/model/activations.h"

namespace ssa {

struct Linear {
  Tensor y, x, w;
  const Fp8Operands* fp8 = nullptr;
};
inline void linear(Stream& stream, const Linear& p) {
  if (!p.fp8) return matmul(stream, {.out = p.y, .a = p.x, .b = p.w, .transpose_b = true});
  const Fp8Matrix x = p.fp8->x.matrix(p.x.dim(0), p.x.dim(1), Fp8Blocks::row);
  const Fp8Matrix w = p.fp8->w.matrix(p.w.dim(0), p.w.dim(1), Fp8Blocks::square);
  quantize_fp8(stream, {.plain = x, .x = p.x});
  quantize_fp8(stream, {.plain = w, .x = p.w});
  fp8_matmul(stream, {.out = p.y, .a = x, .b = w});
}

/// In FP8 it also leaves d_y^T in fp8->d_y_t, for the weight gradient that comes next.
struct LinearInputGradient {
  Tensor d_x, d_y, w;
  const Fp8Operands* fp8 = nullptr;
};
inline void linear_input_gradient(Stream& stream, const LinearInputGradient& p) {
  if (!p.fp8) return matmul(stream, {.out = p.d_x, .a = p.d_y, .b = p.w});
  const std::int64_t M = p.d_y.dim(0), N = p.w.dim(0), K = p.w.dim(1);
  const Fp8Matrix d_y = p.fp8->d_y.matrix(M, N, Fp8Blocks::row), w_t = p.fp8->w.matrix(K, N, Fp8Blocks::square);
  Fp8Matrix d_y_t;
  if (fp8_matmul_has_f32_rows(N)) d_y_t = p.fp8->d_y_t.matrix(N, M, Fp8Blocks::square);
  quantize_fp8(stream, {.plain = d_y, .transposed = d_y_t, .x = p.d_y});
  quantize_fp8(stream, {.transposed = w_t, .x = p.w});
  fp8_matmul(stream, {.out = p.d_x, .a = d_y, .b = w_t});
}

/// In FP8 it reads what linear_input_gradient of the same d_y left, and is in the dtype of the activations where
/// FP8 has no such product.
struct LinearWeightGradient {
  Tensor d_w, d_y, x;
  bool accumulate;  ///< add to d_w instead of overwriting it
  const Fp8Operands* fp8 = nullptr;
};
inline void linear_weight_gradient(Stream& stream, const LinearWeightGradient& p) {
  const std::int64_t M = p.d_y.dim(0), N = p.d_w.dim(0), K = p.d_w.dim(1);
  if (!p.fp8 || !fp8_matmul_has_f32_rows(N))
    return matmul(stream, {.out = p.d_w, .a = p.d_y, .b = p.x, .transpose_a = true, .accumulate = p.accumulate});
  const Fp8Matrix d_y_t = p.fp8->d_y_t.matrix(N, M, Fp8Blocks::square), x_t = p.fp8->x.matrix(K, M, Fp8Blocks::row);
  quantize_fp8(stream, {.transposed = x_t, .x = p.x});
  fp8_matmul(stream, {.out = p.d_w, .a = d_y_t, .b = x_t, .accumulate = p.accumulate});
}

}  // namespace ssa
