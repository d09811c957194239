// Test cases of attention_divergence.
#pragma once

#include "kernels/attention/stats/attention_divergence.h"
#include "ops/attention_cases.h"

namespace ssa::test {

struct AttentionDivergenceCase {
  AttentionDims dims;
  std::int64_t sink_tokens;
  PieceBegins begins = {};

  std::string to_string() const {
    return concat(dims.to_string(), " sink_tokens ", sink_tokens, ssa::test::to_string(begins));
  }
};

inline const std::vector<AttentionDivergenceCase> kAttentionDivergenceCases = {{{1, 1, 1, 1, 8}, 1},
                                                                               {{2, 3, 2, 3, 6}, 4},
                                                                               {{1, 33, 2, 1, 8}, 1},
                                                                               {{2, 26, 2, 2, 8}, 40},
                                                                               {{2, 15, 1, 2, 64}, 4},
                                                                               {{2, 17, 1, 8, 64}, 17},
                                                                               {{1, 255, 2, 3, 128}, 4},
                                                                               {{2, 300, 1, 32, 64}, 1},
                                                                               {{2, 26, 2, 2, 8}, 3, {4, 8, 24}},
                                                                               {{1, 273, 1, 16, 64}, 4, {16, 32, 144}}};

struct AttentionDivergenceInputs {
  Values full, sparse, q, k, distance, norm, sink;

  explicit AttentionDivergenceInputs(const AttentionDivergenceCase& c)
      : full(random_values(c.dims.query_shape().count(), 1)),
        sparse(random_values(c.dims.query_shape().count(), 2)),
        q(random_values(c.dims.query_shape().count(), 3)),
        k(random_values(c.dims.key_shape(c.dims.T).count(), 4)),
        distance(random_values(c.dims.HQ(), 5)),
        norm(random_values(c.dims.HQ(), 6)),
        sink(random_values(c.dims.HQ(), 7)) {}
};

/// `lse` of full causal attention over q and k.
inline Outputs run_attention_divergence(OpRunner& run, const AttentionDivergenceCase& c,
                                        const AttentionDivergenceInputs& in, const Values& lse) {
  const AttentionDims& d = c.dims;
  const Tensor distance = run.f64_input(in.distance, {d.HQ()}), norm = run.f64_input(in.norm, {d.HQ()}),
               sink = run.f64_input(in.sink, {d.HQ()});
  attention_divergence(run.stream(), {.distance = distance,
                                      .norm = norm,
                                      .sink = sink,
                                      .full = run.act_input(in.full, d.query_shape()),
                                      .sparse = run.act_input(in.sparse, d.query_shape()),
                                      .q = run.act_input(in.q, d.query_shape()),
                                      .k = run.act_input(in.k, d.key_shape(d.T)),
                                      .lse = run.f32_input(lse, d.row_shape()),
                                      .documents = document_bounds(run, d, c.begins),
                                      .scale = d.scale(),
                                      .sink_tokens = c.sink_tokens});
  return {{"distance", run.read(distance)}, {"norm", run.read(norm)}, {"sink", run.read(sink)}};
}

}  // namespace ssa::test
