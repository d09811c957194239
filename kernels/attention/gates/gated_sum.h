// Gated attention branches: out = g_slc * selected + g_cmp * compressed + g_swa * window (absent branches count 0).
// One gate per token and query head; gates[..., 0] = g_cmp, [..., 1] = g_slc, [..., 2] = g_swa. The baselines full and
// moba have only the `selected` branch.
#pragma once

#include "kernels/common/dispatch.h"

namespace ssa {

struct GatedSumForward {
  Tensor out;              ///< [B, T, HQ, D] act
  Tensor gates;            ///< [B, T, HQ, 3] f32
  Tensor selected;         ///< [B, T, HQ, D] act
  Tensor compressed = {};  ///< [B, T, HQ, D] act
  Tensor window = {};      ///< [B, T, HQ, D] act
};
SSA_OP(gated_sum_forward, GatedSumForward);

/// For each branch x that is given: d_x = g_x * d_out;  delta_x = sum over D of d_x * x, of the stored (rounded)
/// values, as the attention backward ops want it;  d_gates[x] = sum over D of d_out * x. Gates of absent branches get
/// gradient 0.
struct GatedSumBackward {
  Tensor d_gates;         ///< [B, T, HQ, 3] f32
  Tensor d_selected;      ///< [B, T, HQ, D] act
  Tensor delta_selected;  ///< [B, T, HQ] f32
  Tensor d_compressed = {};
  Tensor delta_compressed = {};
  Tensor d_window = {};
  Tensor delta_window = {};
  Tensor d_out;     ///< [B, T, HQ, D] act
  Tensor gates;     ///< [B, T, HQ, 3] f32
  Tensor selected;  ///< [B, T, HQ, D] act
  Tensor compressed = {};
  Tensor window = {};
};
SSA_OP(gated_sum_backward, GatedSumBackward);

}  // namespace ssa
