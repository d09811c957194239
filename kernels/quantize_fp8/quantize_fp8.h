// Rounds a matrix to FP8, as it is, transposed, or both (fp8_matrix.h has the format). Both operands of an FP8 product
// have the summed dimension in their rows, so a linear layer needs its matrices both ways.
#pragma once

#include "kernels/common/dispatch.h"
#include "kernels/quantize_fp8/fp8_matrix.h"

namespace ssa {

/// A repeated run gives the same bits, and the CPU the same as CUDA for the same x.
struct QuantizeFp8 {
  Fp8Matrix plain = {};       ///< [R, C], overwritten; optional
  Fp8Matrix transposed = {};  ///< [C, R], overwritten; optional: x^T, whose scales belong to blocks of x^T
  Tensor x;                   ///< [R, C] act; its rows, which may be padded, are multiples of 8 elements

  std::int64_t columns() const { return plain ? plain.columns : transposed.rows; }  ///< C
};
SSA_OP(quantize_fp8, QuantizeFp8);

}  // namespace ssa
