// Shape checks shared by the `validate` functions of the attention ops. Each throws Error that names the op and the
// tensor, what was found and what was expected.
#pragma once

#include "kernels/common/check.h"

namespace ssa {

struct AttentionDims {
  std::int64_t B, T, HQ, D, HK;
  DType act;

  Shape query_shape() const { return {B, T, HQ, D}; }              ///< of q, out and their gradients
  Shape key_shape(std::int64_t U) const { return {B, U, HK, D}; }  ///< of k, v and their gradients, U keys
  Shape lse_shape() const { return {B, T, HQ}; }                   ///< of lse and delta
};

/// The dimensions of q and k; `k_name` is the name of k in messages. Throws unless both have 4 dimensions and HQ is a
/// multiple of HK. The other dimensions of k are left to expect().
inline AttentionDims attention_dims(const char* op, const Tensor& q, const char* k_name, const Tensor& k) {
  expect_rank(op, "q", q, 4, "[B, T, HQ, D]");
  expect_rank(op, k_name, k, 4, "4 dimensions");
  const AttentionDims dims{q.dim(0), q.dim(1), q.dim(2), q.dim(3), k.dim(2), q.dtype()};
  SSA_CHECK(dims.HK > 0 && dims.HQ % dims.HK == 0, op, ": q has ", dims.HQ, " heads, expected a multiple of the ",
            dims.HK, " of ", k_name);
  return dims;
}

/// N = ceil(T / block_size). Throws unless block_size is positive.
inline std::int64_t block_number(const char* op, std::int64_t T, std::int64_t block_size) {
  SSA_CHECK(block_size > 0, op, ": block_size ", block_size, ", expected at least 1");
  return (T + block_size - 1) / block_size;
}

/// Throws unless indices is [B, T, HK, S'] i32 with S' > 0. The values are not checked.
inline void expect_indices(const char* op, const Tensor& indices, const AttentionDims& dims) {
  SSA_CHECK(indices.shape().rank() == 4 && indices.dim(3) > 0, op, ": indices is ", indices.shape().to_string(),
            ", expected [B, T, HK, S']");
  expect(op, "indices", indices, {dims.B, dims.T, dims.HK, indices.dim(3)}, DType::i32);
}

/// Checks out, lse, k and v of an op struct in which every token has a key, and returns its dimensions.
template <class Forward>
AttentionDims expect_attention_forward(const char* op, const Forward& p) {
  const AttentionDims dims = attention_dims(op, p.q, "k", p.k);
  expect(op, "out", p.out, dims.query_shape(), dims.act);
  expect(op, "lse", p.lse, dims.lse_shape(), real_of(dims.act));
  expect(op, "k", p.k, dims.key_shape(dims.T), dims.act);
  expect(op, "v", p.v, dims.key_shape(dims.T), dims.act);
  return dims;
}

/// The same for the backward's d_q, d_k, d_v, d_out, delta, lse, k and v.
template <class Backward>
AttentionDims expect_attention_backward(const char* op, const Backward& p) {
  const AttentionDims dims = attention_dims(op, p.q, "k", p.k);
  const DType act = dims.act, real = real_of(act);
  expect(op, "d_q", p.d_q, dims.query_shape(), real);
  expect(op, "d_k", p.d_k, dims.key_shape(dims.T), real);
  expect(op, "d_v", p.d_v, dims.key_shape(dims.T), real);
  expect(op, "d_out", p.d_out, dims.query_shape(), act);
  expect(op, "delta", p.delta, dims.lse_shape(), real);
  expect(op, "lse", p.lse, dims.lse_shape(), real);
  expect(op, "k", p.k, dims.key_shape(dims.T), act);
  expect(op, "v", p.v, dims.key_shape(dims.T), act);
  return dims;
}

}  // namespace ssa
