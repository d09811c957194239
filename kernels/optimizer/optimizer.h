// The optimizer's ops over flat ranges of parameters: squared norm, AdamW, cast, accumulate. A range may start at any
// element. A wrong shape or dtype throws Error.
#pragma once

#include "kernels/common/dispatch.h"

namespace ssa {

/// out += sum of x^2, accumulated in f64. The order of the sum is fixed: it does not depend on the number of threads.
struct SquaredNorm {
  Tensor out;  ///< [1] f64, accumulated
  Tensor x;    ///< [n] f32
};
SSA_OP_WITH_SCRATCH(squared_norm, SquaredNorm);

/// CTAs of the CUDA kernel, each of which leaves one partial sum in scratch.
inline constexpr std::int64_t kSquaredNormPartials = 1024;

/// One AdamW update with decoupled weight decay (Loshchilov & Hutter, arXiv 1711.05101); g = gradient_scale * gradient:
///   m = beta1 m + (1 - beta1) g
///   v = beta2 v + (1 - beta2) g^2
///   master -= learning_rate * (m / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + epsilon) + weight_decay * master)
///   weight = master, rounded to nearest even
/// Moments in bf16 are widened to f32 and used unrounded in the step that computes them; what is stored is rounded up
/// or down at random (stochastic_rounding.h), so that its mean over many steps is the unrounded value. Rounding to
/// nearest would leave a moment as it is when a step changes it by less than half of a bf16 step.
/// Elements are independent. Tensors may not overlap. A step below 1 throws Error.
struct AdamW {
  Tensor master;         ///< [n] f32, updated in place
  Tensor m;              ///< [n] f32 or bf16, updated in place
  Tensor v;              ///< [n] as m, updated in place
  Tensor weight = {};    ///< [n] bf16 or f32, overwritten; absent where master itself is the weight
  Tensor gradient;       ///< [n] f32
  float gradient_scale;  ///< the factor of gradient clipping
  double learning_rate;
  double beta1, beta2, epsilon, weight_decay;
  std::int64_t step;  ///< from 1
  /// For moments in bf16: element i is rounded by the random number of (seed, step, first_index + i).
  std::uint64_t seed = 0;
  std::int64_t first_index = 0;
};
SSA_OP(adamw, AdamW);

/// out = x, rounded to nearest even in out's dtype.
struct Cast {
  Tensor out;  ///< [n] act or f32, overwritten
  Tensor x;    ///< [n] f32 or act; may not overlap out
};
SSA_OP(cast, Cast);

/// out += x: gradients of a micro-batch, reduced over the ranks, into the rank's shard.
struct Accumulate {
  Tensor out;  ///< [n] f32, accumulated
  Tensor x;    ///< [n] f32 or bf16; may not overlap out
};
SSA_OP(accumulate, Accumulate);

}  // namespace ssa
