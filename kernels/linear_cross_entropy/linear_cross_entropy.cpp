#include "linear_cross_entropy.h"

#include <algorithm>

#include "kernels/common/check.h"
#include "kernels/quantize_fp8/check_fp8.h"

namespace ssa {
namespace {

void validate_fp8(const LinearCrossEntropy& p) {
  constexpr auto op = "linear_cross_entropy";
  SSA_CHECK(p.d_hidden, op, ": fp8 without d_hidden");
  const std::int64_t M = p.hidden.dim(0), H = p.hidden.dim(1), V = p.weight.dim(0);
  const std::int64_t chunk = std::min(M, p.logits.dim(0));
  SSA_CHECK(M % kFp8Alignment == 0 && chunk % kFp8Alignment == 0, op, ": ", M, " tokens in chunks of ", chunk,
            ", expected multiples of ", kFp8Alignment, " with FP8");
  SSA_CHECK(H % kFp8Alignment == 0 && p.logits.dim(1) == fp8_padded(V), op, ": H is ", H, " and rows of logits are ",
            p.logits.dim(1), ", expected a multiple of ", kFp8Alignment, " and ", fp8_padded(V), " with FP8");
  const std::int64_t chunks = p.fp8_hidden_is_rounded ? (M + chunk - 1) / chunk : 1;
  expect_fp8_buffer(op, "fp8.hidden", p.fp8->hidden, chunk, H, Fp8Blocks::row, chunks);
  expect_fp8_buffer(op, "fp8.hidden_t", p.fp8->hidden_t, H, chunk, Fp8Blocks::square, chunks);
  expect_fp8_buffer(op, "fp8.weight", p.fp8->weight, V, H, Fp8Blocks::square);
  expect_fp8_buffer(op, "fp8.weight_t", p.fp8->weight_t, H, V, Fp8Blocks::square);
  expect_fp8_buffer(op, "fp8.d_logits", p.fp8->d_logits, chunk, V, Fp8Blocks::row);
  expect_fp8_buffer(op, "fp8.d_logits_t", p.fp8->d_logits_t, V, chunk, Fp8Blocks::row);
}

}  // namespace

HeadInput head_input(const LinearCrossEntropyFp8& fp8, std::int64_t index, std::int64_t tokens, std::int64_t chunk,
                     std::int64_t H) {
  return {.hidden = fp8.hidden.part(index, {chunk, H}, Fp8Blocks::row).matrix(tokens, H, Fp8Blocks::row),
          .hidden_t = fp8.hidden_t.part(index, {H, chunk}, Fp8Blocks::square).matrix(H, tokens, Fp8Blocks::square)};
}

void validate(const LinearCrossEntropy& p) {
  constexpr auto op = "linear_cross_entropy";
  SSA_CHECK(p.hidden.shape().rank() == 2 && p.hidden.dim(0) > 0, op, ": hidden is ", p.hidden.shape().to_string(),
            ", expected [M, H] with M at least 1");
  expect_rank(op, "weight", p.weight, 2, "[V, H]");
  SSA_CHECK(p.logits.shape().rank() == 2 && p.logits.dim(0) > 0, op, ": logits is ", p.logits.shape().to_string(),
            ", expected [chunk, V] with chunk at least 1");
  const std::int64_t M = p.hidden.dim(0), H = p.hidden.dim(1), V = p.weight.dim(0);
  const DType act = p.hidden.dtype();
  expect(op, "weight", p.weight, {V, H}, act);
  expect_rows(op, "logits", p.logits, p.logits.dim(0), V, act);
  expect(op, "targets", p.targets, {M}, DType::i32);
  expect(op, "loss_sum", p.loss_sum, {1}, DType::f64);
  expect_if_given(op, "losses", p.losses, {M}, real_of(act));
  expect_if_given(op, "d_hidden", p.d_hidden, {M, H}, act);
  expect_if_given(op, "d_weight", p.d_weight, {V, H}, real_of(act));
  SSA_CHECK(static_cast<bool>(p.d_hidden) == static_cast<bool>(p.d_weight), op,
            ": d_hidden and d_weight come together");
  if (p.fp8) validate_fp8(p);
}

/// The losses, when the caller does not want them, and two f32 per token of a chunk in FP8.
std::size_t cuda::scratch_bytes(const LinearCrossEntropy& p) {
  const std::int64_t losses = p.losses ? 0 : p.hidden.dim(0), sums = p.fp8 ? 2 * p.logits.dim(0) : 0;
  return static_cast<std::size_t>(losses + sums) * sizeof(float);
}

}  // namespace ssa
