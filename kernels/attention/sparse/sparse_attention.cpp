#include "sparse_attention.h"

#include "kernels/attention/check.h"

namespace ssa {

void validate(const SparseAttentionForward& p) {
  constexpr auto op = "sparse_attention_forward";
  const AttentionDims dims = expect_attention_forward(op, p);
  expect_indices(op, p.indices, dims);
  block_number(op, dims.T, p.block_size);
}

void validate(const SparseAttentionBackward& p) {
  constexpr auto op = "sparse_attention_backward";
  const AttentionDims dims = expect_attention_backward(op, p);
  expect_indices(op, p.indices, dims);
  block_number(op, dims.T, p.block_size);
}

#if !SSA_WITH_CUDA  // only the CUDA sources know its layout
std::size_t cuda::scratch_bytes(const SparseAttentionBackward&) { return 0; }
#endif

}  // namespace ssa
