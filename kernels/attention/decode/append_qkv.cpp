#include "append_qkv.h"

#include "kernels/attention/check.h"

namespace ssa {

void validate(const AppendQkv& p) {
  constexpr auto op = "append_qkv";
  expect_rank(op, "q", p.q, 4, "[B, T, HQ, D]");
  expect_rank(op, "k_cache", p.k_cache, 4, "[B, C, HK, D]");
  const std::int64_t B = p.q.dim(0), T = p.q.dim(1), HQ = p.q.dim(2), D = p.q.dim(3);
  const std::int64_t C = p.k_cache.dim(1), HK = p.k_cache.dim(2), N = block_number(op, C, p.block_size);
  const DType act = p.q.dtype();
  SSA_CHECK(D % 2 == 0, op, ": D is ", D, ", expected an even number");
  expect(op, "gates", p.gates, {B, T, HQ, 3}, real_of(act));
  expect(op, "k_cache", p.k_cache, {B, C, HK, D}, act);
  expect(op, "v_cache", p.v_cache, {B, C, HK, D}, act);
  expect_if_given(op, "k_mean", p.k_mean, {B, N, HK, D}, act);
  expect_if_given(op, "v_mean", p.v_mean, {B, N, HK, D}, act);
  expect(op, "qkvg", p.qkvg, {B * T, (HQ + 2 * HK) * D + 3 * HQ}, act);
  expect(op, "positions", p.positions, {B, T}, DType::i32);
  expect_rank(op, "cos_sin", p.cos_sin, 3, "[P, D/2, 2]");
  expect(op, "cos_sin", p.cos_sin, {p.cos_sin.dim(0), D / 2, 2}, real_of(act));
}

}  // namespace ssa
