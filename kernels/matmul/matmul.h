// Matrix product: out = op(a) @ op(b), or out += op(a) @ op(b), where op(x) is x or x^T. OpenBLAS on the CPU, cuBLASLt
// with f32 accumulation on CUDA.
//
// The three products of a linear layer y = x @ w^T, with x [M, K] and w [N, K]:
//   y    = {.out = y,   .a = x,   .b = w,                      .transpose_b = true}
//   d_x  = {.out = d_x, .a = d_y, .b = w}
//   d_w += {.out = d_w, .a = d_y, .b = x, .transpose_a = true, .accumulate = true}
//
// K = 0 gives zero, or leaves an accumulated output unchanged. A repeated product gives the same bits on the same
// device and library version: the CPU result does not depend on the number of threads, the CUDA result not on
// autotuning (README.md). A wrong shape or dtype throws Error.
#pragma once

#include "kernels/common/dispatch.h"

namespace ssa {

struct Matmul {
  Tensor out;  ///< [M, N] act or f32, overwritten or accumulated; may not alias a or b
  Tensor a;    ///< [M, K], or [K, M] with transpose_a; act
  Tensor b;    ///< [K, N], or [N, K] with transpose_b; act
  bool transpose_a = false;
  bool transpose_b = false;
  bool accumulate = false;  ///< add to out instead of overwriting it
};
SSA_OP(matmul, Matmul);

}  // namespace ssa
