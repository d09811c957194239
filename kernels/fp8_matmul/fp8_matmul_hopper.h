// FP8 products by a kernel of this project. README.md in this directory explains it.
#pragma once

#include "kernels/fp8_matmul/fp8_matmul.h"

namespace ssa::cuda {

/// Computes the whole rows of p.out (fp8_whole_rows). Sums are in f32, in a fixed order. Error if the stream's device
/// or the build has no wgmma.
void fp8_matmul_hopper(Stream& stream, const Fp8Matmul& p);

/// Whether it splits sums of this product, because its last tiles would leave most SMs idle.
bool fp8_matmul_hopper_splits(Stream& stream, const Fp8Matmul& p);

}  // namespace ssa::cuda
