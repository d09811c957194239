// What the optimizer does to flat ranges of parameters: squared norm, AdamW, cast.
#pragma once

#include "kernels/common/dispatch.h"

namespace ssa {

/// out += sum of x^2, accumulated in f64 in an order that does not depend on the number of threads.
struct SquaredNorm {
  Tensor out;  ///< [1] f64, accumulated
  Tensor x;    ///< [n] f32
};
SSA_OP(squared_norm, SquaredNorm);

/// On CUDA, the sum is taken over this many shares, which lie in scratch.
inline constexpr std::int64_t kSquaredNormPartials = 1024;

/// Stream::scratch that squared_norm takes.
inline std::size_t squared_norm_scratch_bytes(DeviceKind kind) {
  return kind == DeviceKind::cuda ? static_cast<std::size_t>(kSquaredNormPartials) * sizeof(double) : 0;
}

/// One AdamW update with decoupled weight decay (Loshchilov & Hutter 2019), g = gradient_scale * gradient:
///   m = beta1 m + (1 - beta1) g;   v = beta2 v + (1 - beta2) g^2
///   master -= learning_rate * (m / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + epsilon) + weight_decay * master)
struct AdamW {
  Tensor master;         ///< [n] f32, updated
  Tensor m;              ///< [n] f32, updated
  Tensor v;              ///< [n] f32, updated
  Tensor weight = {};    ///< [n] bf16 or f32: receives master rounded; absent where master is the weight itself
  Tensor gradient;       ///< [n] f32
  float gradient_scale;  ///< the clip factor
  double learning_rate;
  double beta1, beta2, epsilon, weight_decay;
  std::int64_t step;  ///< counted from 1
};
SSA_OP(adamw, AdamW);

/// out = x rounded to out's dtype.
struct Cast {
  Tensor out;  ///< [n] act or f32
  Tensor x;    ///< [n] f32 or act
};
SSA_OP(cast, Cast);

}  // namespace ssa
