#include "compressed_attention.h"

#include "kernels/attention/check.h"

namespace ssa {

void validate(const CompressedAttentionForward& p) {
  constexpr auto op = "compressed_attention_forward";
  const AttentionDims dims = attention_dims(op, p.q, "k_mean", p.k_mean);
  const std::int64_t N = block_number(op, dims.T, p.block_size);
  const DType act = dims.act;
  expect(op, "out", p.out, dims.query_shape(), act);
  expect(op, "lse", p.lse, dims.lse_shape(), real_of(act));
  expect(op, "k_mean", p.k_mean, dims.key_shape(N), act);
  expect(op, "v_mean", p.v_mean, dims.key_shape(N), act);
  expect_if_given(op, p.documents, dims.B, dims.T);
}

void validate(const CompressedAttentionBackward& p) {
  constexpr auto op = "compressed_attention_backward";
  const AttentionDims dims = attention_dims(op, p.q, "k_mean", p.k_mean);
  const std::int64_t N = block_number(op, dims.T, p.block_size);
  const DType act = dims.act, real = real_of(act);
  expect(op, "d_q", p.d_q, dims.query_shape(), real);
  expect(op, "d_k_mean", p.d_k_mean, dims.key_shape(N), real);
  expect(op, "d_v_mean", p.d_v_mean, dims.key_shape(N), real);
  expect(op, "d_out", p.d_out, dims.query_shape(), act);
  expect(op, "delta", p.delta, dims.lse_shape(), real);
  expect(op, "lse", p.lse, dims.lse_shape(), real);
  expect(op, "k_mean", p.k_mean, dims.key_shape(N), act);
  expect(op, "v_mean", p.v_mean, dims.key_shape(N), act);
  expect_if_given(op, p.documents, dims.B, dims.T);
}

#if !SSA_WITH_CUDA  // only the CUDA sources know its layout
std::size_t cuda::scratch_bytes(const CompressedAttentionBackward&) { return 0; }
#endif

}  // namespace ssa
