// A linear layer with the steps around it in a Llama layer, for decoding, where a product of a few rows takes as long
// as one read of w and each further kernel costs its start:
//   n = rmsnorm(x) * norm_weight (rmsnorm.h), or x without norm_weight
//   y = n @ w^T
//   y = silu(gate) * up with y = [gate, up], if `swiglu`
//   out = residual + y, or y without residual
// n, y, gate and up are rounded to act, as by the ops that compute one of these steps, so the result is theirs up to
// the order of the sums in f32.
//
// out is overwritten; it may alias residual, and nothing else. A repeated run gives the same bits, and on CUDA with up
// to 32 rows a row does not depend on the others. A wrong shape or dtype throws Error, and so does swiglu together with
// residual.
#pragma once

#include "kernels/common/dispatch.h"
#include "kernels/common/read_later.h"

namespace ssa {

struct FusedLinear {
  Tensor out;               ///< [M, N] act, or f32 without swiglu and residual; [M, N / 2] act with swiglu
  Tensor x;                 ///< [M, K] act
  Tensor norm_weight = {};  ///< [K] act; optional
  float eps = 0;            ///< of the norm
  Tensor w;                 ///< [N, K] act; with swiglu the rows of gate, then those of up
  bool swiglu = false;
  Tensor residual = {};  ///< [M, N] act; optional
  ReadLater read_later = {};
};
SSA_OP_WITH_SCRATCH(fused_linear, FusedLinear);

}  // namespace ssa
