// Test cases of linear_cross_entropy.
#pragma once

#include <algorithm>
#include <cmath>

#include "kernels/linear_cross_entropy/linear_cross_entropy.h"
#include "support/padded_rows.h"

namespace ssa::test {

struct LinearCrossEntropyCase {
  std::int64_t M, H, V, chunk;
  std::int64_t masked_every;  ///< every masked_every-th target is -100; 0 = none
  bool gradients = true;
  bool padded = false;  ///< rows of logits

  PaddedRows logits() const { return {chunk, V, padded}; }
};

/// One token, one id, chunks that do not divide M, a chunk larger than M, all targets -100, odd vocabularies, no
/// gradients, the tiny and ssa-1b widths, the ssa-1b vocabulary. Then the largest vocabularies that clusters of 1, 2, 4
/// and 8 CTAs can hold, and the next larger ones, with enough targets that every CTA of a cluster owns one. Then padded
/// rows for every kernel, and GPT-2's vocabulary.
inline const std::vector<LinearCrossEntropyCase> kLinearCrossEntropyCases = {{1, 8, 3, 1, 0},
                                                                             {4, 3, 1, 2, 0},
                                                                             {13, 17, 19, 4, 3},
                                                                             {7, 16, 33, 16, 2},
                                                                             {6, 8, 11, 4, 1},
                                                                             {33, 128, 257, 8, 5},
                                                                             {5, 2048, 1003, 2, 0},
                                                                             {9, 64, 50, 9, 4, false},
                                                                             {9, 64, 56, 4, 4},
                                                                             {9, 4, 128256, 4, 9},
                                                                             {3, 4, 16376, 3, 0},
                                                                             {3, 4, 16384, 3, 3},
                                                                             {3, 4, 16392, 3, 0},
                                                                             {3, 4, 16390, 3, 3},
                                                                             {4, 4, 32768, 3, 0},
                                                                             {5, 4, 32776, 5, 5},
                                                                             {4, 4, 65536, 4, 0},
                                                                             {8, 4, 65544, 8, 0},
                                                                             {8, 4, 65544, 3, 3, false},
                                                                             {8, 4, 131072, 8, 0},
                                                                             {3, 4, 131080, 3, 3},
                                                                             {4, 3, 1, 2, 0, true, true},
                                                                             {13, 17, 19, 4, 3, true, true},
                                                                             {5, 2048, 1003, 2, 0, true, true},
                                                                             {9, 64, 50, 9, 4, false, true},
                                                                             {3, 4, 16391, 3, 3, true, true},
                                                                             {6, 8, 50257, 3, 4, true, true},
                                                                             {3, 4, 131075, 3, 3, true, true}};

struct LinearCrossEntropyInputs {
  std::vector<std::int32_t> targets;
  Values hidden, weight, d_weight;
  double loss_sum = 1.5;
  float gradient_scale = 0.125f;

  explicit LinearCrossEntropyInputs(const LinearCrossEntropyCase& c)
      : hidden(random_values(c.M * c.H, 1)),
        weight(random_values(c.V * c.H, 2, 2 / std::sqrt(static_cast<double>(c.H)))),
        d_weight(
            random_values(c.V * c.H, 3, 0.1 / static_cast<double>(c.V))) {  // as small as the gradients added to it
    const std::int64_t last = std::max<std::int64_t>(c.M - 1, 1);           // targets run from the last id to the first
    for (std::int64_t m = 0; m < c.M; ++m) {
      const bool masked = c.masked_every > 0 && (m + 1) % c.masked_every == 0;
      targets.push_back(masked ? -100 : static_cast<std::int32_t>(c.V - 1 - m * (c.V - 1) / last));
    }
  }
};

/// `logits`: working memory whose contents the caller reads afterwards. `are_rounded`: fp8 has hidden and weight, whose
/// tensors are then full of NaN.
inline Outputs run_linear_cross_entropy(OpRunner& run, const LinearCrossEntropyCase& c,
                                        const LinearCrossEntropyInputs& in, bool accumulate,
                                        const LinearCrossEntropyFp8* fp8 = nullptr, Tensor logits = {},
                                        bool are_rounded = false) {
  const Tensor loss_sum = run.f64_input({in.loss_sum}, {1}), losses = run.f32_output({c.M});
  const Tensor d_hidden = c.gradients ? run.act_output({c.M, c.H}) : Tensor();
  const Tensor d_weight = !c.gradients ? Tensor()
                          : accumulate ? run.f32_input(in.d_weight, {c.V, c.H})
                                       : run.f32_output({c.V, c.H});
  linear_cross_entropy(run.stream(),
                       {.loss_sum = loss_sum,
                        .losses = losses,
                        .d_hidden = d_hidden,
                        .d_weight = d_weight,
                        .logits = logits ? logits : run.act_output(c.logits().shape()),
                        .hidden = are_rounded ? run.act_output({c.M, c.H}) : run.act_input(in.hidden, {c.M, c.H}),
                        .weight = are_rounded ? run.act_output({c.V, c.H}) : run.act_input(in.weight, {c.V, c.H}),
                        .targets = run.i32_input(in.targets, {c.M}),
                        .gradient_scale = in.gradient_scale,
                        .accumulate = accumulate,
                        .fp8 = fp8,
                        .fp8_hidden_is_rounded = are_rounded,
                        .fp8_weight_is_rounded = are_rounded});
  Outputs outputs = {{"loss_sum", run.read(loss_sum)}, {"losses", run.read(losses)}};
  if (c.gradients) {
    outputs.push_back({"d_hidden", run.read(d_hidden)});
    outputs.push_back({"d_weight", run.read(d_weight)});
  }
  return outputs;
}

}  // namespace ssa::test
