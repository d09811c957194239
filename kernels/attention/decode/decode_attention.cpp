#include "decode_attention.h"

#include "kernels/attention/check.h"

namespace ssa {

void validate(const DecodeAttention& p) {
  constexpr auto op = "decode_attention";
  const AttentionDims dims = attention_dims(op, p.q, "k", p.k);
  const DType act = dims.act;
  expect(op, "out", p.out, dims.query_shape(), act);
  expect(op, "k", p.k, dims.key_shape(p.k.dim(1)), act);
  expect(op, "v", p.v, dims.key_shape(p.k.dim(1)), act);
  expect(op, "positions", p.positions, {dims.B, dims.T}, DType::i32);
  expect_if_given(op, "gates", p.gates, {dims.B, dims.T, dims.HQ, 3}, real_of(act));
  SSA_CHECK(p.tokens_per_key > 0, op, ": tokens_per_key ", p.tokens_per_key, ", expected at least 1");
  SSA_CHECK(p.tokens_per_key == 1 || (p.window == 0 && !p.indices), op,
            ": window and indices need one token per key, found tokens_per_key ", p.tokens_per_key);
  SSA_CHECK(p.window == 0 || !p.indices, op, ": window ", p.window, " and indices, expected one of them");
  if (!p.indices) return;
  expect_indices(op, p.indices, dims);
  block_number(op, p.k.dim(1), p.block_size);
}

#if !SSA_WITH_CUDA  // only the CUDA sources know its layout
std::size_t cuda::scratch_bytes(const DecodeAttention&) { return 0; }
#endif

}  // namespace ssa
