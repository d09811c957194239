// SwiGLU (Shazeer 2020): out = silu(gate) * up, silu(x) = x / (1 + exp(-x)).
#pragma once

#include "kernels/common/dispatch.h"

namespace ssa {

struct SwigluForward {
  Tensor out;      ///< [M, F] act
  Tensor gate_up;  ///< [M, 2 F] act: gate in the first F columns, up in the last
};
SSA_OP(swiglu_forward, SwigluForward);

struct SwigluBackward {
  Tensor d_gate_up;  ///< [M, 2 F] act; may alias gate_up
  Tensor out = {};   ///< [M, F] act: when given, silu(gate) * up is written again for the weight gradient that follows
  Tensor d_out;      ///< [M, F] act
  Tensor gate_up;    ///< [M, 2 F] act
};
SSA_OP(swiglu_backward, SwigluBackward);

}  // namespace ssa
