// Product of FP8 matrices: out = a @ b^T, or out += a @ b^T, accumulated in f32. docs/fp8.md has the measurements that
// led to blocks of 1 x 128 and 128 x 128.
//
// The three products of a linear layer y = x @ w^T, with x [M, K] and w [N, K]:
//   y    = {.out = y,   .a = x (row blocks),      .b = w (square blocks)}
//   d_x  = {.out = d_x, .a = d_y (row blocks),    .b = w^T (square blocks)}
//   d_w += {.out = d_w, .a = d_y^T (square blocks), .b = x^T (row blocks), .accumulate = true}
//
// M, N and K may be any numbers. CUDA writes rows of `out` up to a multiple of 16 columns, so out has padded rows if N
// is not one; their padding is not defined afterwards.
//
// CUDA: cuBLASLt, on Hopper GPUs, from CUDA 12.9 on, or a kernel of this directory (README.md); they compute whole
// multiples of 16 rows, and another kernel the last 1 to 15 (last_rows.h). The CPU multiplies value * scale in f32. All
// round the result once, to the dtype of `out`; a repeated product gives the same bits on the same device and library
// version.
#pragma once

#include <string>

#include "kernels/common/dispatch.h"
#include "kernels/quantize_fp8/fp8_matrix.h"

namespace ssa {

/// What computes a product on CUDA: the one chosen for its shape, or the named one, for tests and benchmarks.
enum class Fp8Kernel { chosen, cublaslt, hopper };

struct Fp8Matmul {
  Tensor out;               ///< [M, N] act or f32, overwritten or accumulated, rows padded to a multiple of 16
  Fp8Matrix a;              ///< [M, K]; one of a and b has row blocks, the other one square blocks
  Fp8Matrix b;              ///< [N, K]; with row blocks, N is a multiple of 16
  bool accumulate = false;  ///< add to out, which then is f32, instead of overwriting it
  Fp8Kernel kernel = Fp8Kernel::chosen;  ///< the CPU has one only
};
SSA_OP(fp8_matmul, Fp8Matmul);

/// Why FP8 products do not run on the stream's device; empty if they do. The CPU runs them everywhere.
std::string why_no_fp8(Stream& stream);

namespace cuda {
std::string why_no_fp8(Stream& stream);
}

}  // namespace ssa
