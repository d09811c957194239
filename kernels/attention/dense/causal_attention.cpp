#include "causal_attention.h"

#include "kernels/attention/check.h"

namespace ssa {

void validate(const CausalAttentionForward& p) {
  constexpr auto op = "causal_attention_forward";
  const AttentionDims dims = expect_attention_forward(op, p);
  expect_if_given(op, p.documents, dims.B, dims.T);
  SSA_CHECK(p.window >= 0, op, ": window ", p.window, ", expected 0 or more");
}

void validate(const CausalAttentionBackward& p) {
  constexpr auto op = "causal_attention_backward";
  const AttentionDims dims = expect_attention_backward(op, p);
  expect_if_given(op, p.documents, dims.B, dims.T);
  SSA_CHECK(p.window >= 0, op, ": window ", p.window, ", expected 0 or more");
}

#if !SSA_WITH_CUDA  // only the CUDA sources know its layout
std::size_t cuda::scratch_bytes(const CausalAttentionForward&) { return 0; }
std::size_t cuda::scratch_bytes(const CausalAttentionBackward&) { return 0; }
#endif

}  // namespace ssa
