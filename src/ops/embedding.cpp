#include "ssa/ops/embedding.h"

#include "check.h"

namespace ssa {

void validate(const EmbeddingForward& p) {
  constexpr auto op = "embedding_forward";
  SSA_CHECK(p.weight.shape().rank() == 2, op, ": weight is ", p.weight.shape().to_string(), ", expected [V, H]");
  SSA_CHECK(p.ids.shape().rank() == 1, op, ": ids is ", p.ids.shape().to_string(), ", expected [M]");
  const std::int64_t M = p.ids.dim(0), H = p.weight.dim(1);
  expect(op, "ids", p.ids, {M}, DType::i32);
  expect(op, "out", p.out, {M, H}, p.weight.dtype());
}

void validate(const EmbeddingBackward& p) {
  constexpr auto op = "embedding_backward";
  SSA_CHECK(p.d_weight.shape().rank() == 2, op, ": d_weight is ", p.d_weight.shape().to_string(), ", expected [V, H]");
  SSA_CHECK(p.ids.shape().rank() == 1, op, ": ids is ", p.ids.shape().to_string(), ", expected [M]");
  const std::int64_t M = p.ids.dim(0), V = p.d_weight.dim(0), H = p.d_weight.dim(1);
  const DType act = p.d_out.dtype();
  expect(op, "ids", p.ids, {M}, DType::i32);
  expect(op, "d_out", p.d_out, {M, H}, act);
  expect(op, "d_weight", p.d_weight, {V, H}, real_of(act));
}

}  // namespace ssa
