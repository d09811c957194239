// The three products of a linear layer y = x @ w^T, with x [M, K] and w [N, K].
#pragma once

#include "kernels/matmul/matmul.h"

namespace ssa {

struct Linear {
  Tensor y, x, w;
};
inline void linear(Stream& stream, const Linear& p) {
  matmul(stream, {.out = p.y, .a = p.x, .b = p.w, .transpose_b = true});
}

struct LinearInputGradient {
  Tensor d_x, d_y, w;
};
inline void linear_input_gradient(Stream& stream, const LinearInputGradient& p) {
  matmul(stream, {.out = p.d_x, .a = p.d_y, .b = p.w});
}

struct LinearWeightGradient {
  Tensor d_w, d_y, x;
  bool accumulate;  ///< add to d_w instead of overwriting it
};
inline void linear_weight_gradient(Stream& stream, const LinearWeightGradient& p) {
  matmul(stream, {.out = p.d_w, .a = p.d_y, .b = p.x, .transpose_a = true, .accumulate = p.accumulate});
}

}  // namespace ssa
