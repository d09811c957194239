#include "append_kv.h"

#include "kernels/attention/check.h"

namespace ssa {

void validate(const AppendKv& p) {
  constexpr auto op = "append_kv";
  expect_rank(op, "k", p.k, 4, "[B, T, HK, D]");
  expect_rank(op, "k_cache", p.k_cache, 4, "[B, C, HK, D]");
  const std::int64_t B = p.k.dim(0), T = p.k.dim(1), HK = p.k.dim(2), D = p.k.dim(3), C = p.k_cache.dim(1);
  const std::int64_t N = block_number(op, C, p.block_size);
  const DType act = p.k.dtype();
  expect(op, "v", p.v, p.k.shape(), act);
  expect(op, "k_cache", p.k_cache, {B, C, HK, D}, act);
  expect(op, "v_cache", p.v_cache, {B, C, HK, D}, act);
  expect_if_given(op, "k_mean", p.k_mean, {B, N, HK, D}, act);
  expect_if_given(op, "v_mean", p.v_mean, {B, N, HK, D}, act);
  expect(op, "positions", p.positions, {B, T}, DType::i32);
}

}  // namespace ssa
