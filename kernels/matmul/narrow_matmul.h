// Products of a few rows, as in decoding, where the time is that of reading b once: out = a @ b^T with up to kNarrowRows
// rows. cuBLASLt leaves most of the memory's rate unused there.
#pragma once

#include "kernels/matmul/matmul.h"

namespace ssa::cuda {

inline constexpr std::int64_t kNarrowRows = 32;

/// Whether narrow_matmul computes `p`: b is transposed, nothing is accumulated, rows are
/// multiples of 16 bytes and not padded.
bool is_narrow(const Matmul& p);

/// A row of the result does not depend on the number of rows. Sums are in f32, in a fixed order.
void narrow_matmul(Stream& stream, const Matmul& p);

}  // namespace ssa::cuda
