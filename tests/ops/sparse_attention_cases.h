// Cases of sparse_attention, for its tests and its benchmark.
#pragma once

#include "kernels/attention/sparse/sparse_attention.h"
#include "ops/attention_cases.h"

namespace ssa::test {

struct SparseAttentionCase {
  AttentionDims dims;
  std::int64_t block_size, slots;
  Earlier earlier = Earlier::random;

  std::string to_string() const { return concat(dims.to_string(), " block_size ", block_size, " slots ", slots); }
};

inline bool cuda_supports(const SparseAttentionCase& c) {
  return cuda_supports_head_dim(c.dims) && cuda_supports_block_size(c.block_size);
}

/// First small edge cases: less than a block, one block selected, all selected, more slots than blocks. Then every
/// group and block size of the kernels, lengths that end inside a block, dense groups, long lists. Last the groups of
/// at most 8 heads, of which a warp of the kernels takes several tokens, with several tiles and tiles that are not
/// full, and groups of 16 heads in the backward: no dense group, one, and nothing else, also with so many slots that
/// the kernel has no shared memory left to cut units.
inline const std::vector<SparseAttentionCase> kSparseAttentionCases = {{{1, 1, 1, 1, 8}, 4, 1},
                                                                       {{2, 3, 2, 3, 6}, 4, 2},
                                                                       {{1, 33, 2, 1, 8}, 3, 1},
                                                                       {{2, 26, 2, 2, 8}, 4, 3},
                                                                       {{1, 15, 1, 16, 6}, 3, 5},
                                                                       {{1, 31, 1, 3, 8}, 4, 20},
                                                                       {{2, 33, 1, 2, 8}, 4, 3, Earlier::first},
                                                                       {{1, 1, 1, 1, 64}, 16, 4},
                                                                       {{2, 15, 1, 2, 64}, 16, 1},
                                                                       {{1, 16, 2, 3, 64}, 16, 4},
                                                                       {{2, 17, 1, 8, 64}, 16, 16},
                                                                       {{1, 17, 1, 1, 128}, 16, 1},
                                                                       {{2, 255, 1, 16, 64}, 16, 4},
                                                                       {{1, 255, 2, 8, 64}, 32, 4},
                                                                       {{1, 273, 1, 32, 64}, 16, 18},
                                                                       {{2, 273, 2, 1, 128}, 64, 2},
                                                                       {{1, 600, 1, 16, 64}, 16, 16},
                                                                       {{1, 600, 2, 2, 128}, 32, 16},
                                                                       {{2, 600, 1, 3, 64}, 64, 10},
                                                                       {{1, 600, 1, 8, 128}, 16, 1},
                                                                       {{1, 600, 1, 16, 64}, 16, 4, Earlier::first},
                                                                       {{2, 300, 2, 16, 64}, 32, 6},
                                                                       {{1, 333, 1, 16, 64}, 64, 3},
                                                                       {{1, 200, 1, 4, 64}, 16, 40},
                                                                       {{2, 41, 1, 1, 64}, 16, 2},
                                                                       {{1, 41, 2, 4, 64}, 16, 3},
                                                                       {{1, 500, 1, 1, 64}, 16, 16},
                                                                       {{1, 250, 1, 1, 64}, 64, 3},
                                                                       {{1, 231, 2, 2, 64}, 16, 5},
                                                                       {{1, 145, 3, 3, 64}, 16, 7},
                                                                       {{1, 171, 2, 4, 64}, 16, 4, Earlier::first},
                                                                       {{1, 119, 1, 4, 64}, 32, 3},
                                                                       {{1, 130, 2, 5, 64}, 16, 6},
                                                                       {{1, 87, 1, 6, 64}, 16, 4},
                                                                       {{2, 59, 2, 7, 64}, 32, 2},
                                                                       {{2, 92, 2, 8, 64}, 16, 5},
                                                                       {{1, 61, 1, 12, 64}, 16, 4},
                                                                       {{1, 201, 2, 4, 128}, 16, 8},
                                                                       {{1, 111, 1, 5, 128}, 32, 3},
                                                                       {{1, 15, 2, 16, 64}, 16, 2},
                                                                       {{1, 18, 1, 16, 64}, 16, 1},
                                                                       {{1, 330, 1, 16, 64}, 16, 40},
                                                                       {{1, 330, 1, 16, 64}, 16, 400}};

struct SparseAttentionInputs : AttentionInputs {
  std::vector<std::int32_t> indices;

  explicit SparseAttentionInputs(const SparseAttentionCase& c)
      : AttentionInputs(c.dims, c.dims.T), indices(make_selection(c.dims, c.block_size, c.slots, c.earlier)) {}
};

inline Outputs run_sparse_attention_forward(OpRunner& run, const SparseAttentionCase& c,
                                            const SparseAttentionInputs& in) {
  const AttentionDims& d = c.dims;
  const Tensor out = run.act_output(d.query_shape()), lse = run.f32_output(d.row_shape());
  sparse_attention_forward(run.stream(), {.out = out,
                                          .lse = lse,
                                          .q = run.act_input(in.q, d.query_shape()),
                                          .k = run.act_input(in.k, d.key_shape(d.T)),
                                          .v = run.act_input(in.v, d.key_shape(d.T)),
                                          .indices = run.i32_input(in.indices, {d.B, d.T, d.HK, c.slots}),
                                          .scale = d.scale(),
                                          .block_size = c.block_size});
  return {{"out", run.read(out)}, {"lse", run.read(lse)}};
}

inline Outputs run_sparse_attention_backward(OpRunner& run, const SparseAttentionCase& c,
                                             const SparseAttentionInputs& in, const AttentionSaved& saved,
                                             bool accumulate) {
  const AttentionDims& d = c.dims;
  const Tensor d_q = accumulate ? run.f32_input(in.d_q, d.query_shape()) : run.f32_output(d.query_shape());
  const Tensor d_k = accumulate ? run.f32_input(in.d_k, d.key_shape(d.T)) : run.f32_output(d.key_shape(d.T));
  const Tensor d_v = accumulate ? run.f32_input(in.d_v, d.key_shape(d.T)) : run.f32_output(d.key_shape(d.T));
  sparse_attention_backward(run.stream(), {.d_q = d_q,
                                           .d_k = d_k,
                                           .d_v = d_v,
                                           .d_out = run.act_input(in.d_out, d.query_shape()),
                                           .delta = run.f32_input(saved.delta, d.row_shape()),
                                           .lse = run.f32_input(saved.lse, d.row_shape()),
                                           .q = run.act_input(in.q, d.query_shape()),
                                           .k = run.act_input(in.k, d.key_shape(d.T)),
                                           .v = run.act_input(in.v, d.key_shape(d.T)),
                                           .indices = run.i32_input(in.indices, {d.B, d.T, d.HK, c.slots}),
                                           .scale = d.scale(),
                                           .block_size = c.block_size,
                                           .accumulate = accumulate});
  return {{"d_q", run.read(d_q)}, {"d_k", run.read(d_k)}, {"d_v", run.read(d_v)}};
}

}  // namespace ssa::test
