// SSA's two streams (arXiv 2511.20102, section 3): gate both, pass one on, align them.
//   a_full = g_slc * full;  a_sparse = g_slc * sparse;  out = a_full for rows whose full_stream is 1, else a_sparse
//   alignment += alignment_scale * sum over all elements of
//                [SmoothL1(a_full, stop(a_sparse)) + SmoothL1(stop(a_full), a_sparse)],   beta 1
// where SmoothL1(a, b) = 0.5 (a - b)^2 if |a - b| < 1, else |a - b| - 0.5. The two terms have one value and opposite
// gradients, so alignment grows by 2 * alignment_scale * sum SmoothL1(a_full - a_sparse).
#pragma once

#include "kernels/common/dispatch.h"

namespace ssa {

struct GateAlignmentForward {
  Tensor out;          ///< [B, T, HQ, D] act
  Tensor alignment;    ///< [1] f64, accumulated
  Tensor gates;        ///< [B, T, HQ, 3] f32; component 1 is g_slc
  Tensor full;         ///< [B, T, HQ, D] act
  Tensor sparse;       ///< [B, T, HQ, D] act
  Tensor full_stream;  ///< [B] i32, 1 = the full stream goes on
  double alignment_scale;
};
SSA_OP(gate_alignment_forward, GateAlignmentForward);

/// On CUDA, each so many heads of a row leave a share of the alignment, which lies in scratch.
inline constexpr std::int64_t kGateAlignmentShareHeads = 32;

/// Stream::scratch that the forward takes.
inline std::size_t gate_alignment_forward_scratch_bytes(DeviceKind kind, std::int64_t B, std::int64_t T,
                                                        std::int64_t HQ) {
  const std::int64_t shares = B * ((T * HQ + kGateAlignmentShareHeads - 1) / kGateAlignmentShareHeads);
  return kind == DeviceKind::cuda ? static_cast<std::size_t>(shares) * sizeof(float) : 0;
}

/// With c = gradient_scale * clamp(a_full - a_sparse, -1, 1), all of f32:
///   d_a_full = c + (full_stream ? d_out : 0);  d_a_sparse = -c + (full_stream ? 0 : d_out)
///   d_full = g_slc * d_a_full;  d_sparse = g_slc * d_a_sparse
///   d_gates[1] = sum over D of d_a_full * full + d_a_sparse * sparse;  d_gates[0] = d_gates[2] = 0
///   delta_x = sum over D of d_x * x, of the stored (rounded) values
struct GateAlignmentBackward {
  Tensor d_gates;        ///< [B, T, HQ, 3] f32
  Tensor d_full;         ///< [B, T, HQ, D] act
  Tensor delta_full;     ///< [B, T, HQ] f32
  Tensor d_sparse;       ///< [B, T, HQ, D] act
  Tensor delta_sparse;   ///< [B, T, HQ] f32
  Tensor d_out;          ///< [B, T, HQ, D] act
  Tensor gates;          ///< [B, T, HQ, 3] f32
  Tensor full;           ///< [B, T, HQ, D] act
  Tensor sparse;         ///< [B, T, HQ, D] act
  Tensor full_stream;    ///< [B] i32
  float gradient_scale;  ///< alignment_weight times the alignment_scale of the forward
};
SSA_OP(gate_alignment_backward, GateAlignmentBackward);

}  // namespace ssa
