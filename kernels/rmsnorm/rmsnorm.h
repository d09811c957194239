// Residual add fused with RMSNorm (Zhang & Sennrich 2019):
//   residual = x + delta;   rstd = 1 / sqrt(mean(residual^2) + eps);   out = residual * rstd * weight
#pragma once

#include "kernels/common/dispatch.h"

namespace ssa {

struct RmsNormForward {
  Tensor out;   ///< [M, H] act
  Tensor rstd;  ///< [M] f32
  Tensor residual =
      {};    ///< [M, H] act: x + delta, rounded before the norm reads it; needed iff delta is given; may alias x
  Tensor x;  ///< [M, H] act
  Tensor delta = {};  ///< [M, H] act; absent = 0
  Tensor weight;      ///< [H] act
  float eps;
};
SSA_OP(rmsnorm_forward, RmsNormForward);

/// With n = residual * rstd and g = d_out * weight:
///   d_residual += rstd * (g - n * mean(g * n));   d_weight += sum over rows of d_out * n
struct RmsNormBackward {
  Tensor d_residual;  ///< [M, H] act, accumulated: comes in as the gradient that by-passes the norm
  Tensor d_weight;    ///< [H] f32, accumulated
  Tensor d_out;       ///< [M, H] act
  Tensor residual;    ///< [M, H] act, the forward's residual (x where delta was absent)
  Tensor rstd;        ///< [M] f32
  Tensor weight;      ///< [H] act
};
SSA_OP(rmsnorm_backward, RmsNormBackward);

/// On CUDA, d_weight is summed over this many shares of the rows at most, which lie in scratch.
inline constexpr std::int64_t kRmsNormMaxPartials = 1024;

/// Stream::scratch that the backward takes.
inline std::size_t rmsnorm_backward_scratch_bytes(DeviceKind kind, std::int64_t H) {
  return kind == DeviceKind::cuda ? static_cast<std::size_t>(kRmsNormMaxPartials * H) * sizeof(float) : 0;
}

}  // namespace ssa
