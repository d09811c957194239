#include "linear_cross_entropy.h"

#include "kernels/common/check.h"

namespace ssa {

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
  expect(op, "logits", p.logits, {p.logits.dim(0), V}, act);
  expect(op, "targets", p.targets, {M}, DType::i32);
  expect(op, "loss_sum", p.loss_sum, {1}, DType::f64);
  expect_if_given(op, "losses", p.losses, {M}, real_of(act));
  expect_if_given(op, "d_hidden", p.d_hidden, {M, H}, act);
  expect_if_given(op, "d_weight", p.d_weight, {V, H}, real_of(act));
  SSA_CHECK(static_cast<bool>(p.d_hidden) == static_cast<bool>(p.d_weight), op,
            ": d_hidden and d_weight come together");
}

/// The losses, when the caller does not want them.
std::size_t cuda::scratch_bytes(const LinearCrossEntropy& p) {
  return p.losses ? 0 : static_cast<std::size_t>(p.hidden.dim(0)) * sizeof(float);
}

}  // namespace ssa
