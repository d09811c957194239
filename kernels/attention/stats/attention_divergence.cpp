#include "attention_divergence.h"

#include "kernels/attention/check.h"

namespace ssa {

void validate(const AttentionDivergence& p) {
  constexpr auto op = "attention_divergence";
  const AttentionDims dims = attention_dims(op, p.q, "k", p.k);
  for (const auto& [name, sum] : {std::pair{"distance", p.distance}, {"norm", p.norm}, {"sink", p.sink}})
    expect(op, name, sum, {dims.HQ}, DType::f64);
  expect(op, "full", p.full, dims.query_shape(), dims.act);
  expect(op, "sparse", p.sparse, dims.query_shape(), dims.act);
  expect(op, "k", p.k, dims.key_shape(dims.T), dims.act);
  expect(op, "lse", p.lse, dims.lse_shape(), real_of(dims.act));
  expect_if_given(op, p.documents, dims.B, dims.T);
  SSA_CHECK(p.sink_tokens > 0, op, ": sink_tokens ", p.sink_tokens, ", expected at least 1");
}

/// Three values per position and head, which are added in order.
std::size_t cuda::scratch_bytes(const AttentionDivergence& p) {
  return static_cast<std::size_t>(3 * p.lse.count()) * sizeof(float);
}

}  // namespace ssa
