// Test cases of compressed_attention.
#pragma once

#include "kernels/attention/compressed/compressed_attention.h"
#include "ops/attention_cases.h"

namespace ssa::test {

struct CompressedAttentionCase {
  AttentionDims dims;
  std::int64_t block_size;
  PieceBegins begins = {};

  std::int64_t blocks() const { return block_number(dims.T, block_size); }
  std::string to_string() const {
    return concat(dims.to_string(), " block_size ", block_size, ssa::test::to_string(begins));
  }
};

inline bool cuda_supports(const CompressedAttentionCase& c) {
  return cuda_supports_head_dim(c.dims) && cuda_supports_block_size(c.block_size);
}

/// First the small and ugly: no complete block, an incomplete last block, blocks of one token. The last ones have
/// documents, of which some have no complete block.
inline const std::vector<CompressedAttentionCase> kCompressedAttentionCases = {
    {{1, 1, 1, 1, 8}, 4},
    {{2, 3, 2, 3, 6}, 4},
    {{1, 33, 2, 1, 8}, 3},
    {{2, 26, 2, 2, 8}, 4},
    {{1, 15, 1, 16, 6}, 3},
    {{1, 9, 1, 2, 8}, 1},
    {{1, 1, 1, 1, 64}, 16},
    {{2, 15, 1, 2, 64}, 16},
    {{1, 16, 2, 3, 64}, 16},
    {{2, 17, 1, 8, 64}, 16},
    {{1, 63, 1, 1, 128}, 64},
    {{2, 255, 1, 16, 64}, 16},
    {{1, 273, 2, 8, 64}, 32},
    {{2, 273, 1, 32, 64}, 16},
    {{1, 600, 2, 1, 128}, 64},
    {{1, 600, 1, 16, 64}, 16},
    {{2, 600, 1, 3, 128}, 16},
    {{1, 273, 2, 16, 128}, 16},
    {{1, 9, 1, 2, 8}, 1, {1, 2, 8}},
    {{2, 26, 2, 2, 8}, 4, {4, 8, 24}},
    {{3, 33, 1, 3, 6}, 3, {3, 12, 30}},
    {{1, 273, 1, 16, 64}, 16, {16, 32, 144}},
    {{2, 600, 2, 3, 64}, 16, {128, 144, 592}},
    {{1, 600, 1, 8, 128}, 32, {32, 288}}};

/// `in.k` and `in.v` are the block means: c.blocks() keys per sequence.
inline Outputs run_compressed_attention_forward(OpRunner& run, const CompressedAttentionCase& c,
                                                const AttentionInputs& in) {
  const AttentionDims& d = c.dims;
  const Tensor out = run.act_output(d.query_shape()), lse = run.f32_output(d.row_shape());
  compressed_attention_forward(run.stream(), {.out = out,
                                              .lse = lse,
                                              .q = run.act_input(in.q, d.query_shape()),
                                              .k_mean = run.act_input(in.k, d.key_shape(c.blocks())),
                                              .v_mean = run.act_input(in.v, d.key_shape(c.blocks())),
                                              .documents = document_bounds(run, d, c.begins),
                                              .scale = d.scale(),
                                              .block_size = c.block_size});
  return {{"out", run.read(out)}, {"lse", run.read(lse)}};
}

inline Outputs run_compressed_attention_backward(OpRunner& run, const CompressedAttentionCase& c,
                                                 const AttentionInputs& in, const AttentionSaved& saved,
                                                 bool accumulate) {
  const AttentionDims& d = c.dims;
  const Tensor d_q = accumulate ? run.f32_input(in.d_q, d.query_shape()) : run.f32_output(d.query_shape());
  const Tensor d_k_mean = run.f32_output(d.key_shape(c.blocks())), d_v_mean = run.f32_output(d.key_shape(c.blocks()));
  compressed_attention_backward(run.stream(), {.d_q = d_q,
                                               .d_k_mean = d_k_mean,
                                               .d_v_mean = d_v_mean,
                                               .d_out = run.act_input(in.d_out, d.query_shape()),
                                               .delta = run.f32_input(saved.delta, d.row_shape()),
                                               .lse = run.f32_input(saved.lse, d.row_shape()),
                                               .q = run.act_input(in.q, d.query_shape()),
                                               .k_mean = run.act_input(in.k, d.key_shape(c.blocks())),
                                               .v_mean = run.act_input(in.v, d.key_shape(c.blocks())),
                                               .documents = document_bounds(run, d, c.begins),
                                               .scale = d.scale(),
                                               .block_size = c.block_size,
                                               .accumulate = accumulate});
  return {{"d_q", run.read(d_q)}, {"d_k_mean", run.read(d_k_mean)}, {"d_v_mean", run.read(d_v_mean)}};
}

}  // namespace ssa::test
