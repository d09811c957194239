// Checks that the `validate` functions of the attention ops share.
#pragma once

#include "kernels/common/check.h"

namespace ssa {

struct AttentionDims {
  std::int64_t B, T, HQ, D, HK;
  DType act;

  Shape query_shape() const { return {B, T, HQ, D}; }              ///< of q, out and their gradients
  Shape key_shape(std::int64_t U) const { return {B, U, HK, D}; }  ///< of k, v and their gradients, with U keys a row
  Shape row_shape() const { return {B, T, HQ}; }                   ///< of lse and delta
};

/// Dimensions from q and k (named `k_name`); throws unless they fit each other. The number of keys a row is not
/// checked.
inline AttentionDims attention_dims(const char* op, const Tensor& q, const char* k_name, const Tensor& k) {
  expect_rank(op, "q", q, 4, "[B, T, HQ, D]");
  expect_rank(op, k_name, k, 4, "4 dimensions");
  const AttentionDims dims{q.dim(0), q.dim(1), q.dim(2), q.dim(3), k.dim(2), q.dtype()};
  SSA_CHECK(dims.HK > 0 && dims.HQ % dims.HK == 0, op, ": q has ", dims.HQ, " heads, expected a multiple of the ",
            dims.HK, " of ", k_name);
  return dims;
}

/// N = ceil(T / block_size), after checking block_size.
inline std::int64_t block_number(const char* op, std::int64_t T, std::int64_t block_size) {
  SSA_CHECK(block_size > 0, op, ": block_size ", block_size, ", expected at least 1");
  return (T + block_size - 1) / block_size;
}

inline void expect_indices(const char* op, const Tensor& indices, const AttentionDims& dims) {
  SSA_CHECK(indices.shape().rank() == 4 && indices.dim(3) > 0, op, ": indices is ", indices.shape().to_string(),
            ", expected [B, T, HK, S']");
  expect(op, "indices", indices, {dims.B, dims.T, dims.HK, indices.dim(3)}, DType::i32);
}

}  // namespace ssa
