// SSA's gate and alignment loss (arXiv 2511.20102, section 3): gates the outputs of full and of sparse attention with
// the same gate, passes one of the two on, and adds a loss that pulls them toward each other.
//   a_full = g_slc * full;   a_sparse = g_slc * sparse
//   out = a_full for sequences whose full_stream is 1, else a_sparse
//   alignment += alignment_scale * sum over all elements of
//                [SmoothL1(a_full, stop(a_sparse)) + SmoothL1(stop(a_full), a_sparse)]
// where stop() is a stop-gradient and SmoothL1(a, b) = 0.5 (a - b)^2 if |a - b| < 1, else |a - b| - 0.5. The two terms
// have the same value and opposite gradients, so alignment grows by 2 * alignment_scale * sum SmoothL1(a_full,
// a_sparse). gates [B, T, HQ, 3] has g_cmp, g_slc, g_swa per head: SSA uses g_slc, component 1.
//
// Outputs may not alias inputs. The sums have a fixed order: a repeated run gives the same bits. A wrong shape or dtype
// throws Error.
#pragma once

#include "kernels/common/dispatch.h"
#include "kernels/quantize_fp8/fp8_matrix.h"

namespace ssa {

struct GateAlignmentForward {
  Tensor out = {};       ///< [B, T, HQ, D] act, overwritten; absent if the next two are given
  Fp8Matrix fp8 = {};    ///< [B T, HQ D], overwritten: out as quantize_fp8 rounds it; D a multiple of 8
  Fp8Matrix fp8_t = {};  ///< [HQ D, B T], overwritten: the same, transposed
  Tensor alignment;      ///< [1] f64, accumulated
  Tensor gates;          ///< [B, T, HQ, 3] f32
  Tensor full;           ///< [B, T, HQ, D] act
  Tensor sparse;         ///< [B, T, HQ, D] act
  Tensor full_stream;    ///< [B] i32: 1 = a_full is passed on, 0 = a_sparse
  double alignment_scale;
};
SSA_OP_WITH_SCRATCH(gate_alignment_forward, GateAlignmentForward);

/// (token, head) pairs that a CTA of the CUDA forward takes; each CTA leaves a partial sum of the alignment in scratch.
inline constexpr std::int64_t kGateAlignmentHeadsPerCta = 32;

/// With c = clamp(a_full - a_sparse, -1, 1), the gradient of SmoothL1, in f32:
///   d_a_full   =  full_scale * c   + (full_stream ? d_out : 0)
///   d_a_sparse = -sparse_scale * c + (full_stream ? 0 : d_out)
///   d_full = g_slc * d_a_full;                  d_sparse = g_slc * d_a_sparse
///   d_gates[1] = sum over D of d_a_full * full + d_a_sparse * sparse;   d_gates[0] = d_gates[2] = 0
///   delta_full = sum over D of d_full * full;   delta_sparse = sum over D of d_sparse * sparse
/// The deltas are the inputs of the attention backwards; they are summed over gradients as stored (rounded). All
/// outputs are overwritten.
struct GateAlignmentBackward {
  Tensor d_gates;       ///< [B, T, HQ, 3] f32
  Tensor d_full;        ///< [B, T, HQ, D] act
  Tensor delta_full;    ///< [B, T, HQ] f32
  Tensor d_sparse;      ///< [B, T, HQ, D] act
  Tensor delta_sparse;  ///< [B, T, HQ] f32
  Tensor d_out;         ///< [B, T, HQ, D] act
  Tensor gates;         ///< [B, T, HQ, 3] f32
  Tensor full;          ///< [B, T, HQ, D] act
  Tensor sparse;        ///< [B, T, HQ, D] act
  Tensor full_stream;   ///< [B] i32
  float full_scale;     ///< gradient of the first term of the alignment loss: alignment_weight * alignment_scale of the
                        ///< forward; 0 leaves the term out
  float sparse_scale;   ///< the same for the second term
};
SSA_OP(gate_alignment_backward, GateAlignmentBackward);

}  // namespace ssa
