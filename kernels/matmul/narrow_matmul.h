// Products of a few rows, as in decoding, where reading b once takes the time: out = a @ b^T with up to
// kNarrowRows rows, and the steps before and after it of fused_linear.h. cuBLASLt leaves most of the memory's rate
// unused there.
#pragma once

#include "kernels/matmul/matmul.h"

namespace ssa {
struct FusedLinear;
}

namespace ssa::cuda {

inline constexpr std::int64_t kNarrowRows = 32;

/// Whether narrow_matmul computes a @ b^T: rows are multiples of 16 bytes, and few.
bool is_narrow(const Tensor& a, const Tensor& b);

/// Whether narrow_matmul normalizes x itself. Every CTA does it for all rows, which is cheap for few of them only.
bool norms_rows(const Tensor& x);

/// A row of the result does not depend on the number of rows. Sums are in f32, in a fixed order. `p` has a norm only if
/// norms_rows(p.x).
void narrow_matmul(Stream& stream, const char* op, const FusedLinear& p);

}  // namespace ssa::cuda
