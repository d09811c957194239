// The rows of an FP8 product that are not a multiple of 16, which cuBLASLt does not compute.
#pragma once

#include "kernels/fp8_matmul/fp8_matmul.h"

namespace ssa::cuda {

/// Computes the 1 to 15 rows of p.out that follow the last multiple of 16. Reads b once per four of them. Sums are in
/// f32, in a fixed order.
void fp8_last_rows(Stream& stream, const Fp8Matmul& p);

}  // namespace ssa::cuda
