// Test cases of attention_stats.
#pragma once

#include "kernels/attention/stats/attention_stats.h"
#include "ops/attention_cases.h"

namespace ssa::test {

struct AttentionStatsCase {
  AttentionDims dims;
  std::int64_t block_size, slots;
  PieceBegins begins = {};

  std::string to_string() const {
    return concat(dims.to_string(), " block_size ", block_size, " slots ", slots, ssa::test::to_string(begins));
  }
};

inline bool cuda_supports(const AttentionStatsCase& c) {
  return cuda_supports_head_dim(c.dims) && cuda_supports_block_size(c.block_size);
}

inline const std::vector<AttentionStatsCase> kAttentionStatsCases = {{{1, 1, 1, 1, 8}, 4, 1},
                                                                     {{2, 3, 2, 3, 6}, 4, 2},
                                                                     {{1, 33, 2, 1, 8}, 3, 1},
                                                                     {{2, 26, 2, 2, 8}, 4, 3},
                                                                     {{1, 31, 1, 16, 8}, 4, 20},
                                                                     {{1, 1, 1, 1, 64}, 16, 4},
                                                                     {{2, 15, 1, 2, 64}, 16, 1},
                                                                     {{2, 17, 1, 8, 64}, 16, 16},
                                                                     {{1, 255, 2, 3, 128}, 16, 4},
                                                                     {{2, 273, 1, 16, 64}, 32, 4},
                                                                     {{1, 273, 1, 32, 64}, 16, 18},
                                                                     {{1, 600, 1, 16, 64}, 16, 16},
                                                                     {{2, 26, 2, 2, 8}, 4, 3, {4, 8, 24}},
                                                                     {{1, 273, 1, 16, 64}, 16, 4, {16, 32, 144}},
                                                                     {{2, 255, 1, 3, 128}, 16, 4, {16, 240}}};

struct AttentionStatsInputs {
  Values q, k, selected_mass, entropy;
  std::vector<std::int32_t> indices;

  explicit AttentionStatsInputs(const AttentionStatsCase& c)
      : q(random_values(c.dims.query_shape().count(), 1)),
        k(random_values(c.dims.key_shape(c.dims.T).count(), 2)),
        selected_mass(random_values(c.dims.HQ(), 3)),
        entropy(random_values(c.dims.HQ(), 4)),
        indices(make_selection(c.dims, c.block_size, c.slots, Earlier::random, c.begins)) {}
};

/// `lse` of full causal attention over q and k.
inline Outputs run_attention_stats(OpRunner& run, const AttentionStatsCase& c, const AttentionStatsInputs& in,
                                   const Values& lse) {
  const AttentionDims& d = c.dims;
  const Tensor selected_mass = run.f64_input(in.selected_mass, {d.HQ()}), entropy = run.f64_input(in.entropy, {d.HQ()});
  attention_stats(run.stream(), {.selected_mass = selected_mass,
                                 .entropy = entropy,
                                 .q = run.act_input(in.q, d.query_shape()),
                                 .k = run.act_input(in.k, d.key_shape(d.T)),
                                 .lse = run.f32_input(lse, d.row_shape()),
                                 .indices = run.i32_input(in.indices, {d.B, d.T, d.HK, c.slots}),
                                 .documents = document_bounds(run, d, c.begins),
                                 .scale = d.scale(),
                                 .block_size = c.block_size});
  return {{"selected_mass", run.read(selected_mass)}, {"entropy", run.read(entropy)}};
}

}  // namespace ssa::test
