// The norm and its backward where they write FP8, plain and transposed, for hidden sizes up to 2048.
#pragma once

#include "rmsnorm.h"

namespace ssa::cuda {

/// Whether the two functions below have kernels for rows of H elements on this GPU.
bool rmsnorm_has_clusters(Stream& stream, std::int64_t H);

/// p has fp8.
void rmsnorm_forward_in_clusters(Stream& stream, const RmsNormForward& p);

/// Writes one partial d_weight [H] per 128 tokens. p has fp8 and fp8_t.
void rmsnorm_backward_in_clusters(Stream& stream, const RmsNormBackward& p, float* partials);

}  // namespace ssa::cuda
