#include "attention_stats.h"

#include "kernels/attention/check.h"

namespace ssa {

void validate(const AttentionStats& p) {
  constexpr auto op = "attention_stats";
  const AttentionDims dims = attention_dims(op, p.q, "k", p.k);
  expect(op, "selected_mass", p.selected_mass, {dims.HQ}, DType::f64);
  expect(op, "entropy", p.entropy, {dims.HQ}, DType::f64);
  expect(op, "k", p.k, dims.key_shape(dims.T), dims.act);
  expect(op, "lse", p.lse, dims.lse_shape(), real_of(dims.act));
  expect_indices(op, p.indices, dims);
  expect_if_given(op, p.documents, dims.B, dims.T);
  block_number(op, dims.T, p.block_size);
}

#if !SSA_WITH_CUDA  // only the CUDA sources know its layout
std::size_t cuda::scratch_bytes(const AttentionStats&) { return 0; }
#endif

}  // namespace ssa
