// Test cases of embedding.
#pragma once

#include "kernels/embedding/embedding.h"
#include "support/op_runner.h"

namespace ssa::test {

struct EmbeddingCase {
  std::int64_t M, V, H;
};

/// One token, one column, a vocabulary of one id, every id many times, odd sizes, the ssa-1b width, the ssa-1b
/// vocabulary, more tokens than a CTA sorts, ids with hundreds of tokens, an id with more chunks than CTA threads.
inline const std::vector<EmbeddingCase> kEmbeddingCases = {
    {1, 5, 8},     {3, 4, 1},      {9, 1, 17},    {130, 7, 65},  {200, 257, 128}, {33, 1003, 200},
    {5, 97, 2048}, {6, 128256, 3}, {5000, 97, 8}, {2500, 2, 16}, {17000, 1, 8}};

struct EmbeddingInputs {
  std::vector<std::int32_t> ids;
  Values weight, d_out, d_weight;

  explicit EmbeddingInputs(const EmbeddingCase& c)
      : ids(static_cast<std::size_t>(c.M)),
        weight(random_values(c.V * c.H, 1)),
        d_out(loss_weights(c.M * c.H)),
        d_weight(random_values(c.V * c.H, 2)) {
    for (std::size_t m = 0; m < ids.size(); ++m)  // the first token has the last id
      ids[m] = static_cast<std::int32_t>(c.V - 1 - static_cast<std::int64_t>(m * m * 31) % c.V);
  }
};

inline Outputs run_embedding_forward(OpRunner& run, const EmbeddingCase& c, const EmbeddingInputs& in) {
  const Tensor out = run.act_output({c.M, c.H});
  embedding_forward(run.stream(),
                    {.out = out, .ids = run.i32_input(in.ids, {c.M}), .weight = run.act_input(in.weight, {c.V, c.H})});
  return {{"out", run.read(out)}};
}

inline Outputs run_embedding_backward(OpRunner& run, const EmbeddingCase& c, const EmbeddingInputs& in) {
  const Tensor d_weight = run.f32_input(in.d_weight, {c.V, c.H});
  embedding_backward(
      run.stream(),
      {.d_weight = d_weight, .d_out = run.act_input(in.d_out, {c.M, c.H}), .ids = run.i32_input(in.ids, {c.M})});
  return {{"d_weight", run.read(d_weight)}};
}

}  // namespace ssa::test
