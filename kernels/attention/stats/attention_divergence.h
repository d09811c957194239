// How far the sparse attention's output is from the full one's, and how much of the full attention rests on a row's
// first tokens. All three are sums over the B * T positions:
//   distance[h] += |full - sparse|^2;   norm[h] += |full|^2   (so sqrt(distance / norm) is the relative distance)
//   sink[h] += sum over u < sink_tokens, u <= t of exp(scale * q . k_u - lse)
#pragma once

#include "kernels/common/dispatch.h"

namespace ssa {

struct AttentionDivergence {
  Tensor distance;  ///< [HQ] f64, accumulated
  Tensor norm;      ///< [HQ] f64, accumulated
  Tensor sink;      ///< [HQ] f64, accumulated
  Tensor full;      ///< [B, T, HQ, D] act: output of full causal attention
  Tensor sparse;    ///< [B, T, HQ, D] act: that over the selected blocks
  Tensor q;         ///< [B, T, HQ, D] act
  Tensor k;         ///< [B, T, HK, D] act
  Tensor lse;       ///< [B, T, HQ] f32, of full causal attention
  float scale;
  std::int64_t sink_tokens;
};
SSA_OP(attention_divergence, AttentionDivergence);

/// Scratch that the op reserves on the stream: on CUDA three numbers a head and position, which are added in order.
inline std::size_t attention_divergence_scratch_bytes(DeviceKind kind, std::int64_t B, std::int64_t T,
                                                      std::int64_t HQ) {
  return kind == DeviceKind::cuda ? static_cast<std::size_t>(3 * B * T * HQ) * sizeof(float) : 0;
}

}  // namespace ssa
