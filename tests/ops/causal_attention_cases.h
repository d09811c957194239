// Test cases of causal_attention.
#pragma once

#include "kernels/attention/dense/causal_attention.h"
#include "ops/attention_cases.h"

namespace ssa::test {

struct CausalAttentionCase {
  AttentionDims dims;
  std::int64_t window = 0;
  PieceBegins begins = {};

  std::string to_string() const { return concat(dims.to_string(), " window ", window, ssa::test::to_string(begins)); }
};

inline bool cuda_supports(const CausalAttentionCase& c) { return cuda_supports_head_dim(c.dims); }

/// First the small and ugly. Then lengths around the tile sizes of the kernels, every group size, and windows of one
/// token, of less than a tile, across tiles, and longer than the sequence. Then documents, as short as one token, and
/// longer than the tiles.
inline const std::vector<CausalAttentionCase> kCausalAttentionCases = {{{1, 1, 1, 1, 8}},
                                                                       {{2, 7, 2, 3, 6}},
                                                                       {{1, 15, 1, 16, 8}},
                                                                       {{2, 33, 2, 2, 8}},
                                                                       {{1, 1, 2, 2, 8}, 4},
                                                                       {{2, 19, 1, 3, 6}, 1},
                                                                       {{1, 33, 2, 1, 8}, 5},
                                                                       {{1, 12, 1, 2, 8}, 40},
                                                                       {{1, 1, 1, 1, 64}},
                                                                       {{2, 15, 1, 2, 64}},
                                                                       {{1, 16, 1, 8, 64}},
                                                                       {{2, 17, 2, 3, 64}},
                                                                       {{1, 17, 1, 1, 128}},
                                                                       {{2, 255, 1, 16, 64}},
                                                                       {{1, 273, 2, 8, 128}},
                                                                       {{2, 600, 1, 3, 128}},
                                                                       {{1, 600, 1, 32, 64}},
                                                                       {{1, 15, 1, 1, 64}, 1},
                                                                       {{2, 16, 1, 16, 64}, 16},
                                                                       {{2, 255, 2, 8, 64}, 40},
                                                                       {{1, 273, 1, 32, 64}, 1},
                                                                       {{1, 600, 2, 2, 128}, 128},
                                                                       {{2, 600, 1, 16, 64}, 512},
                                                                       {{1, 273, 1, 8, 128}, 1000},
                                                                       {{1, 128, 1, 3, 128}},
                                                                       {{2, 129, 1, 1, 128}},
                                                                       {{1, 257, 1, 16, 128}},
                                                                       {{1, 520, 1, 8, 128}},
                                                                       {{1, 128, 1, 16, 128}, 1},
                                                                       {{2, 129, 1, 8, 128}, 64},
                                                                       {{1, 200, 1, 3, 128}, 70},
                                                                       {{1, 520, 1, 1, 128}, 200},
                                                                       {{1, 9, 1, 2, 8}, 0, {1, 2, 8}},
                                                                       {{2, 26, 2, 2, 8}, 0, {4, 8, 24}},
                                                                       {{2, 33, 1, 3, 6}, 5, {4, 12, 16}},
                                                                       {{3, 15, 2, 1, 8}, 2, {8, 12}},
                                                                       {{1, 273, 1, 16, 64}, 0, {16, 32, 144}},
                                                                       {{2, 600, 2, 3, 64}, 0, {128, 144, 512}},
                                                                       {{1, 600, 1, 8, 128}, 0, {16, 272}},
                                                                       {{2, 520, 1, 2, 128}, 64, {16, 48, 256}},
                                                                       {{1, 600, 1, 16, 64}, 512, {32, 64, 592}}};

inline Outputs run_causal_attention_forward(OpRunner& run, const CausalAttentionCase& c, const AttentionInputs& in) {
  const AttentionDims& d = c.dims;
  const Tensor out = run.act_output(d.query_shape()), lse = run.f32_output(d.row_shape());
  causal_attention_forward(run.stream(), {.out = out,
                                          .lse = lse,
                                          .q = run.act_input(in.q, d.query_shape()),
                                          .k = run.act_input(in.k, d.key_shape(d.T)),
                                          .v = run.act_input(in.v, d.key_shape(d.T)),
                                          .documents = document_bounds(run, d, c.begins),
                                          .scale = d.scale(),
                                          .window = c.window});
  return {{"out", run.read(out)}, {"lse", run.read(lse)}};
}

inline Outputs run_causal_attention_backward(OpRunner& run, const CausalAttentionCase& c, const AttentionInputs& in,
                                             const AttentionSaved& saved, bool accumulate) {
  const AttentionDims& d = c.dims;
  const Tensor d_q = accumulate ? run.f32_input(in.d_q, d.query_shape()) : run.f32_output(d.query_shape());
  const Tensor d_k = accumulate ? run.f32_input(in.d_k, d.key_shape(d.T)) : run.f32_output(d.key_shape(d.T));
  const Tensor d_v = accumulate ? run.f32_input(in.d_v, d.key_shape(d.T)) : run.f32_output(d.key_shape(d.T));
  causal_attention_backward(run.stream(), {.d_q = d_q,
                                           .d_k = d_k,
                                           .d_v = d_v,
                                           .d_out = run.act_input(in.d_out, d.query_shape()),
                                           .delta = run.f32_input(saved.delta, d.row_shape()),
                                           .lse = run.f32_input(saved.lse, d.row_shape()),
                                           .q = run.act_input(in.q, d.query_shape()),
                                           .k = run.act_input(in.k, d.key_shape(d.T)),
                                           .v = run.act_input(in.v, d.key_shape(d.T)),
                                           .documents = document_bounds(run, d, c.begins),
                                           .scale = d.scale(),
                                           .window = c.window,
                                           .accumulate = accumulate});
  return {{"d_q", run.read(d_q)}, {"d_k", run.read(d_k)}, {"d_v", run.read(d_v)}};
}

}  // namespace ssa::test
