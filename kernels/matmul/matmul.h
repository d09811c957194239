// Matrix product: out = op(a) @ op(b), or out += op(a) @ op(b), where op(x) is x or x^T. OpenBLAS on the CPU, cuBLASLt
// with f32 accumulation on CUDA.
//
// The three products of a linear layer y = x @ w^T, with x [M, K] and w [N, K]:
//   y    = {.out = y,   .a = x,   .b = w,                      .transpose_b = true}
//   d_x  = {.out = d_x, .a = d_y, .b = w}
//   d_w += {.out = d_w, .a = d_y, .b = x, .transpose_a = true, .accumulate = true}
//
// Rows of out and of a may be padded (padded_columns): their padding is neither read nor written. cuBLASLt's fast
// algorithms need rows that begin at multiples of 16 bytes.
//
// K = 0 gives zero, or leaves an accumulated output unchanged. A repeated product gives the same bits on the same
// device and library version: the CPU result does not depend on the number of threads, the CUDA result not on
// autotuning (README.md). A wrong shape or dtype throws Error.
#pragma once

#include "kernels/common/dispatch.h"

namespace ssa {

struct Matmul {
  Tensor out;  ///< [M, N] act or f32, overwritten or accumulated, rows may be padded; may not alias a or b
  Tensor a;    ///< [M, K], or [K, M] with transpose_a; act, rows may be padded
  Tensor b;    ///< [K, N], or [N, K] with transpose_b; act
  bool transpose_a = false;
  bool transpose_b = false;
  bool accumulate = false;  ///< add to out instead of overwriting it

  std::int64_t M() const { return transpose_a ? out.dim(0) : a.dim(0); }
  std::int64_t N() const { return b.dim(transpose_b ? 0 : 1); }
  std::int64_t K() const { return b.dim(transpose_b ? 1 : 0); }
};
SSA_OP(matmul, Matmul);

}  // namespace ssa
