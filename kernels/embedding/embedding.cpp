#include "embedding.h"

#include "kernels/common/check.h"

namespace ssa {

void validate(const EmbeddingForward& p) {
  constexpr auto op = "embedding_forward";
  expect_rank(op, "weight", p.weight, 2, "[V, H]");
  expect_rank(op, "ids", p.ids, 1, "[M]");
  const std::int64_t M = p.ids.dim(0), H = p.weight.dim(1);
  expect(op, "ids", p.ids, {M}, DType::i32);
  expect(op, "out", p.out, {M, H}, p.weight.dtype());
}

void validate(const EmbeddingBackward& p) {
  constexpr auto op = "embedding_backward";
  expect_rank(op, "d_weight", p.d_weight, 2, "[V, H]");
  expect_rank(op, "ids", p.ids, 1, "[M]");
  const std::int64_t M = p.ids.dim(0), V = p.d_weight.dim(0), H = p.d_weight.dim(1);
  const DType act = p.d_out.dtype();
  expect(op, "ids", p.ids, {M}, DType::i32);
  expect(op, "d_out", p.d_out, {M, H}, act);
  expect(op, "d_weight", p.d_weight, {V, H}, real_of(act));
}

/// The partial sums, then two arrays of M 64-bit sort keys.
std::size_t cuda::scratch_bytes(const EmbeddingBackward& p) {
  const std::int64_t M = p.d_out.dim(0), H = p.d_out.dim(1);
  return static_cast<std::size_t>(embedding_partials(M) * H) * sizeof(float) +
         static_cast<std::size_t>(2 * M) * sizeof(std::uint64_t);
}

}  // namespace ssa
