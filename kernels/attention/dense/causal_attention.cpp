#include "causal_attention.h"

#include "kernels/attention/check.h"

namespace ssa {

void validate(const CausalAttentionForward& p) {
  constexpr auto op = "causal_attention_forward";
  const AttentionDims dims = attention_dims(op, p.q, "k", p.k);
  const DType act = dims.act;
  expect(op, "out", p.out, dims.query_shape(), act);
  expect(op, "lse", p.lse, dims.row_shape(), real_of(act));
  expect(op, "k", p.k, dims.key_shape(dims.T), act);
  expect(op, "v", p.v, dims.key_shape(dims.T), act);
  SSA_CHECK(p.window >= 0, op, ": window ", p.window, ", expected 0 or more");
}

void validate(const CausalAttentionBackward& p) {
  constexpr auto op = "causal_attention_backward";
  const AttentionDims dims = attention_dims(op, p.q, "k", p.k);
  const DType act = dims.act, real = real_of(act);
  expect(op, "d_q", p.d_q, dims.query_shape(), real);
  expect(op, "d_k", p.d_k, dims.key_shape(dims.T), real);
  expect(op, "d_v", p.d_v, dims.key_shape(dims.T), real);
  expect(op, "d_out", p.d_out, dims.query_shape(), act);
  expect(op, "delta", p.delta, dims.row_shape(), real);
  expect(op, "lse", p.lse, dims.row_shape(), real);
  expect(op, "k", p.k, dims.key_shape(dims.T), act);
  expect(op, "v", p.v, dims.key_shape(dims.T), act);
  SSA_CHECK(p.window >= 0, op, ": window ", p.window, ", expected 0 or more");
}

#if !SSA_WITH_CUDA
std::size_t cuda::scratch_bytes(const CausalAttentionBackward&) { return 0; }  // only the CUDA sources know its layout
#endif

}  // namespace ssa
