// Gated sum of attention branches, as in NSA (arXiv 2502.11089):
//   out = g_slc * selected + g_cmp * compressed + g_swa * window
// gates [B, T, HQ, 3] has g_cmp, g_slc, g_swa per head. Absent branches count as 0: methods `full` and `moba` have
// `selected` alone.
// Outputs are overwritten and may not alias inputs. The sums have a fixed order: a repeated run gives the same bits. A
// wrong shape or dtype throws Error, and so does a branch that lacks one of its gradients.
#pragma once

#include "kernels/common/dispatch.h"
#include "kernels/quantize_fp8/fp8_matrix.h"

namespace ssa {

struct GatedSumForward {
  Tensor out = {};         ///< [B, T, HQ, D] act, overwritten; absent if the next two are given
  Fp8Matrix fp8 = {};      ///< [B T, HQ D], overwritten: out as quantize_fp8 rounds it; D a multiple of 8
  Fp8Matrix fp8_t = {};    ///< [HQ D, B T], overwritten: the same, transposed
  Tensor gates;            ///< [B, T, HQ, 3] f32
  Tensor selected;         ///< [B, T, HQ, D] act
  Tensor compressed = {};  ///< [B, T, HQ, D] act; optional
  Tensor window = {};      ///< [B, T, HQ, D] act; optional
};
SSA_OP(gated_sum_forward, GatedSumForward);

/// For each branch x that is present, with its gate g_x:
///   d_x = g_x * d_out;   d_g_x = sum over D of d_out * x;   delta_x = sum over D of d_x * x
/// delta_x is an input of the attention backward; it is summed over d_x as stored (rounded). The gates of absent
/// branches get gradient 0.
struct GatedSumBackward {
  Tensor d_gates;                ///< [B, T, HQ, 3] f32
  Tensor d_selected;             ///< [B, T, HQ, D] act
  Tensor delta_selected;         ///< [B, T, HQ] f32
  Tensor d_compressed = {};      ///< as d_selected; present if compressed is
  Tensor delta_compressed = {};  ///< as delta_selected; present if compressed is
  Tensor d_window = {};          ///< present if window is
  Tensor delta_window = {};      ///< present if window is
  Tensor d_out;                  ///< [B, T, HQ, D] act
  Tensor gates;                  ///< [B, T, HQ, 3] f32
  Tensor selected;               ///< [B, T, HQ, D] act
  Tensor compressed = {};        ///< [B, T, HQ, D] act; optional
  Tensor window = {};            ///< [B, T, HQ, D] act; optional
};
SSA_OP(gated_sum_backward, GatedSumBackward);

}  // namespace ssa
