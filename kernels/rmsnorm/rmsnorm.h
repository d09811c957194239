// Residual add fused with RMSNorm (Zhang & Sennrich, arXiv 1910.07467; the norm of Llama):
//   residual = x + delta
//   rstd = 1 / sqrt(mean(residual^2) + eps)
//   out = residual * rstd * weight
// A repeated run gives the same bits on the same GPU model: the CUDA backward sums d_weight in an order that depends on
// the number of SMs. A wrong shape or dtype throws Error, and so does one of delta
// and residual without the other.
#pragma once

#include "kernels/common/dispatch.h"
#include "kernels/quantize_fp8/fp8_matrix.h"

namespace ssa {

struct RmsNormForward {
  Tensor out = {};       ///< [M, H] act, overwritten; optional if fp8_t is given
  Tensor rstd;           ///< [M] f32, overwritten; the backward needs it
  Tensor residual = {};  ///< [M, H] act, overwritten; present if delta is; may alias x; the norm reads it rounded
  Tensor x;              ///< [M, H] act
  Tensor delta = {};     ///< [M, H] act; absent = 0, and residual is x
  Tensor weight;         ///< [H] act
  float eps;
  Fp8Matrix fp8 = {};  ///< [M, H] row blocks, overwritten: out as quantize_fp8 rounds it; optional, H a multiple of 128
  /// [H, M] row or square blocks, overwritten: the same, transposed; optional, given with fp8
  Fp8Matrix fp8_t = {};
};
SSA_OP(rmsnorm_forward, RmsNormForward);

/// With n = residual * rstd and g = d_out * weight:
///   d_residual += rstd * (g - n * mean(g * n))
///   d_weight += sum over tokens of d_out * n
struct RmsNormBackward {
  Tensor d_residual;  ///< [M, H] act, accumulated: contains the gradient of the residual connection before the call
  Tensor d_weight;    ///< [H] f32, accumulated
  Tensor d_out;       ///< [M, H] act
  Tensor residual;    ///< [M, H] act, from the forward (x where delta was absent)
  Tensor rstd;        ///< [M] f32, from the forward
  Tensor weight;      ///< [H] act
  /// [M, H] row blocks, overwritten: d_residual after the call, as quantize_fp8 rounds it; optional
  Fp8Matrix fp8 = {};
  Fp8Matrix fp8_t = {};  ///< [H, M] square blocks, overwritten: the same, transposed; given with fp8
};
SSA_OP_WITH_SCRATCH(rmsnorm_backward, RmsNormBackward);

/// Upper bound on the CTAs of the CUDA backward, each of which leaves one partial d_weight in scratch.
inline constexpr std::int64_t kRmsNormMaxPartials = 1024;

}  // namespace ssa
