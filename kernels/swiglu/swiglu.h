// SwiGLU (Shazeer, arXiv 2002.05202; the feed-forward activation of Llama):
//   out = silu(gate) * up,   silu(x) = x / (1 + exp(-x))
// Elements are independent, and a repeated run gives the same bits. A wrong shape or dtype throws Error.
#pragma once

#include "kernels/common/dispatch.h"
#include "kernels/quantize_fp8/fp8_matrix.h"

namespace ssa {

struct SwigluForward {
  Tensor out = {};  ///< [M, F] act, overwritten; optional if one of the next two is given
  /// [M, F] row or square blocks, overwritten: out as quantize_fp8 rounds it; optional, F a multiple of 128
  Fp8Matrix fp8 = {};
  Fp8Matrix fp8_t = {};  ///< [F, M] row or square blocks, overwritten: the same, transposed; optional
  Tensor gate_up;        ///< [M, 2 F] act: gate in the first F columns, up in the last
};
SSA_OP(swiglu_forward, SwigluForward);

/// With s = 1 / (1 + exp(-gate)):
///   d_gate = d_out * up * (s + silu(gate) * (1 - s));   d_up = d_out * silu(gate)
/// and, if `out` is given, out = silu(gate) * up again, for the weight gradient of the next linear layer.
struct SwigluBackward {
  Tensor d_gate_up = {};  ///< [M, 2 F] act, overwritten; may alias gate_up; absent if the next two are given
  /// [M, 2 F] row blocks, overwritten: d_gate_up as quantize_fp8 rounds it; F a multiple of 128
  Fp8Matrix fp8 = {};
  Fp8Matrix fp8_t = {};  ///< [2 F, M] square blocks, overwritten: the same, transposed
  Tensor out = {};       ///< [M, F] act, overwritten; optional
  Tensor d_out;          ///< [M, F] act
  Tensor gate_up;        ///< [M, 2 F] act
};
SSA_OP(swiglu_backward, SwigluBackward);

}  // namespace ssa
