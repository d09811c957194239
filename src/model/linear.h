// The three products of a linear layer y = x @ w^T, with x [M, K] and w [N, K]: in the dtype of the activations, or in
// FP8 if operands for it are given. docs/fp8.md has the blocks of the operands.
#pragma once

#include "kernels/fp8_matmul/fp8_matmul.h"
#include "kernels/matmul/matmul.h"
#include "kernels/quantize_fp8/quantize_fp8.h"
#include "ssa/model/activations.h"

namespace ssa {

/// x as the forward product reads it.
inline Fp8Matrix fp8_x(const Fp8Operands& fp8, std::int64_t M, std::int64_t K) {
  return fp8.x.matrix(M, K, Fp8Blocks::row);
}

/// d_y as the input gradient reads it, and d_y^T as the weight gradient does.
struct Fp8Gradient {
  Fp8Matrix d_y, d_y_t;
};
inline Fp8Gradient fp8_gradient(const Fp8Buffer& d_y, const Fp8Buffer& d_y_t, std::int64_t M, std::int64_t N) {
  return {.d_y = d_y.matrix(M, N, Fp8Blocks::row), .d_y_t = d_y_t.matrix(N, M, Fp8Blocks::square)};
}

/// What a linear layer in FP8 has; false where it is not in FP8.
struct LinearFp8 {
  const Fp8Operands* operands = nullptr;
  Fp8Weight weight = {};  ///< as round_weights left it

  explicit operator bool() const { return operands != nullptr; }
};

struct Linear {
  Tensor y, x, w;
  LinearFp8 fp8 = {};
  bool x_in_fp8 = false;  ///< fp8_x has x already
  Fp8Matrix keep_x_t =
      {};  ///< where x^T in FP8 is kept for the weight gradient; absent: it is not, or is there already
};
inline void linear(Stream& stream, const Linear& p) {
  if (!p.fp8) return matmul(stream, {.out = p.y, .a = p.x, .b = p.w, .transpose_b = true});
  const Fp8Matrix x = fp8_x(*p.fp8.operands, p.x.dim(0), p.x.dim(1));
  if (!p.x_in_fp8 || p.keep_x_t)
    quantize_fp8(stream, {.plain = p.x_in_fp8 ? Fp8Matrix() : x, .transposed = p.keep_x_t, .x = p.x});
  fp8_matmul(stream, {.out = p.y, .a = x, .b = p.fp8.weight.w});
}

/// In FP8 it rounds d_y to the operands' d_y and d_y_t, where the weight gradient that follows finds it, unless d_y is
/// given in FP8.
struct LinearInputGradient {
  Tensor d_x;
  Tensor d_y = {};  ///< may be absent with d_y_fp8
  Tensor w;
  LinearFp8 fp8 = {};
  const Fp8Gradient* d_y_fp8 = nullptr;
};
inline void linear_input_gradient(Stream& stream, const LinearInputGradient& p) {
  if (!p.fp8) return matmul(stream, {.out = p.d_x, .a = p.d_y, .b = p.w});
  const Fp8Gradient rounded =
      p.d_y_fp8 ? *p.d_y_fp8 : fp8_gradient(p.fp8.operands->d_y, p.fp8.operands->d_y_t, p.d_x.dim(0), p.w.dim(0));
  if (!p.d_y_fp8) quantize_fp8(stream, {.plain = rounded.d_y, .transposed = rounded.d_y_t, .x = p.d_y});
  fp8_matmul(stream, {.out = p.d_x, .a = rounded.d_y, .b = p.fp8.weight.w_t});
}

/// In FP8 it reads what linear_input_gradient of the same d_y left, or d_y_fp8.
struct LinearWeightGradient {
  Tensor d_w;
  Tensor d_y = {};  ///< may be absent with d_y_fp8
  Tensor x;         ///< not read with x_t_fp8
  bool accumulate;  ///< add to d_w instead of overwriting it
  LinearFp8 fp8 = {};
  const Fp8Gradient* d_y_fp8 = nullptr;
  Fp8Matrix x_t_fp8 = {};  ///< x^T as the forward kept it; absent: x is rounded
};
inline void linear_weight_gradient(Stream& stream, const LinearWeightGradient& p) {
  const std::int64_t M = p.x.dim(0), N = p.d_w.dim(0), K = p.d_w.dim(1);
  if (!p.fp8)
    return matmul(stream, {.out = p.d_w, .a = p.d_y, .b = p.x, .transpose_a = true, .accumulate = p.accumulate});
  const Fp8Operands& fp8 = *p.fp8.operands;
  const Fp8Gradient rounded = p.d_y_fp8 ? *p.d_y_fp8 : fp8_gradient(fp8.d_y, fp8.d_y_t, M, N);
  const Fp8Matrix x_t = p.x_t_fp8 ? p.x_t_fp8 : fp8.x.matrix(K, M, Fp8Blocks::row);
  if (!p.x_t_fp8) quantize_fp8(stream, {.transposed = x_t, .x = p.x});
  fp8_matmul(stream, {.out = p.d_w, .a = rounded.d_y_t, .b = x_t, .accumulate = p.accumulate});
}

/// Both gradients.
struct LinearBackward {
  Tensor d_x, d_w;
  Tensor d_y = {};  ///< may be absent with d_y_fp8
  Tensor x, w;
  bool accumulate;  ///< add to d_w instead of overwriting it
  LinearFp8 fp8 = {};
  const Fp8Gradient* d_y_fp8 = nullptr;
  Fp8Matrix x_t_fp8 = {};
};
inline void linear_backward(Stream& stream, const LinearBackward& p) {
  linear_input_gradient(stream, {.d_x = p.d_x, .d_y = p.d_y, .w = p.w, .fp8 = p.fp8, .d_y_fp8 = p.d_y_fp8});
  linear_weight_gradient(stream, {.d_w = p.d_w,
                                  .d_y = p.d_y,
                                  .x = p.x,
                                  .accumulate = p.accumulate,
                                  .fp8 = p.fp8,
                                  .d_y_fp8 = p.d_y_fp8,
                                  .x_t_fp8 = p.x_t_fp8});
}

}  // namespace ssa
