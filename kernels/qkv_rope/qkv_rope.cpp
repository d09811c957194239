#include "qkv_rope.h"

#include "kernels/common/check.h"
#include "kernels/quantize_fp8/check_fp8.h"

namespace ssa {
namespace {

/// The sizes of forward and backward, from `q` [B, T, HQ, D] and `k` [B, T, HK, D].
struct Sizes {
  std::int64_t B, T, HQ, HK, D, N;
  std::int64_t columns() const { return (HQ + 2 * HK) * D + 3 * HQ; }
};

Sizes check_sizes(const char* op, const Tensor& q, const char* q_name, const Tensor& k, const char* k_name,
                  const Tensor& positions, const Tensor& cos_sin, std::int64_t block_size) {
  expect_rank(op, q_name, q, 4, "[B, T, HQ, D]");
  expect_rank(op, k_name, k, 4, "[B, T, HK, D]");
  SSA_CHECK(block_size > 0, op, ": block_size is ", block_size, ", expected at least 1");
  const std::int64_t B = q.dim(0), T = q.dim(1), D = q.dim(3);
  SSA_CHECK(D % 2 == 0, op, ": D is ", D, ", expected an even number");
  expect(op, "positions", positions, {B, T}, DType::i32);
  expect_rank(op, "cos_sin", cos_sin, 3, "[P, D/2, 2]");
  expect(op, "cos_sin", cos_sin, {cos_sin.dim(0), D / 2, 2}, real_of(q.dtype()));
  return {B, T, q.dim(2), k.dim(2), D, (T + block_size - 1) / block_size};
}

}  // namespace

void validate(const QkvRopeForward& p) {
  constexpr auto op = "qkv_rope_forward";
  const Sizes s = check_sizes(op, p.q, "q", p.k, "k", p.positions, p.cos_sin, p.block_size);
  const DType act = p.q.dtype();
  expect(op, "k", p.k, {s.B, s.T, s.HK, s.D}, act);
  expect(op, "v", p.v, {s.B, s.T, s.HK, s.D}, act);
  expect(op, "gates", p.gates, {s.B, s.T, s.HQ, 3}, real_of(act));
  expect_if_given(op, "k_mean", p.k_mean, {s.B, s.N, s.HK, s.D}, act);
  expect_if_given(op, "v_mean", p.v_mean, {s.B, s.N, s.HK, s.D}, act);
  expect_rows(op, "qkvg", p.qkvg, s.B * s.T, s.columns(), act);
}

void validate(const QkvRopeBackward& p) {
  constexpr auto op = "qkv_rope_backward";
  const Sizes s = check_sizes(op, p.d_q, "d_q", p.d_k, "d_k", p.positions, p.cos_sin, p.block_size);
  const bool in_fp8 = p.fp8 || p.fp8_t;
  const DType act = in_fp8 ? p.d_q.dtype() : p.d_qkvg.dtype(), real = real_of(act);
  if (in_fp8) {
    SSA_CHECK(!p.d_qkvg, op, ": d_qkvg and fp8 are given, expected one of them");
    SSA_CHECK(s.D % 16 == 0, op, ": D is ", s.D, ", expected a multiple of 16 with FP8");
    SSA_CHECK(s.B * s.T % kFp8Alignment == 0, op, ": ", s.B * s.T, " tokens, expected a multiple of ", kFp8Alignment,
              " with FP8");
    expect_fp8(op, "fp8", p.fp8, s.B * s.T, s.columns());
    expect_fp8(op, "fp8_t", p.fp8_t, s.columns(), s.B * s.T);
    SSA_CHECK(p.fp8.blocks == Fp8Blocks::row && p.fp8_t.blocks == Fp8Blocks::square, op,
              ": fp8 and fp8_t have other blocks, expected row blocks and square blocks");
  } else {
    expect_rows(op, "d_qkvg", p.d_qkvg, s.B * s.T, s.columns(), act);
  }
  expect(op, "d_q", p.d_q, {s.B, s.T, s.HQ, s.D}, real);
  expect(op, "d_k", p.d_k, {s.B, s.T, s.HK, s.D}, real);
  expect(op, "d_v", p.d_v, {s.B, s.T, s.HK, s.D}, real);
  expect(op, "d_gates", p.d_gates, {s.B, s.T, s.HQ, 3}, real);
  expect_if_given(op, "d_k_mean", p.d_k_mean, {s.B, s.N, s.HK, s.D}, real);
  expect_if_given(op, "d_v_mean", p.d_v_mean, {s.B, s.N, s.HK, s.D}, real);
  expect(op, "gates", p.gates, {s.B, s.T, s.HQ, 3}, real);
}

}  // namespace ssa
