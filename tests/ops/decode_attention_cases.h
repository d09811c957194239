// Test cases of decode_attention.
#pragma once

#include "kernels/attention/decode/decode_attention.h"
#include "ops/attention_cases.h"

namespace ssa::test {

enum class DecodeKeys {
  tokens,    ///< tokens up to the query's position, within the window if there is one
  selected,  ///< tokens of selected blocks
  blocks,    ///< means of complete blocks
};

struct DecodeAttentionCase {
  AttentionDims dims;
  DecodeKeys keys;
  std::int64_t block_size = 0, slots = 0;  ///< block_size: with selected and blocks; slots: with selected
  std::int64_t window = 0;
  bool gates = false;

  std::int64_t keys_per_sequence() const {
    return keys == DecodeKeys::blocks ? block_number(dims.T, block_size) : dims.T;
  }
  std::string to_string() const {
    return concat(dims.to_string(), " keys ", static_cast<int>(keys), " block_size ", block_size, " slots ", slots,
                  " window ", window, gates ? " gates" : "");
  }
};

inline bool cuda_supports(const DecodeAttentionCase& c) {
  return cuda_supports_head_dim(c.dims) && (c.block_size == 0 || cuda_supports_block_size(c.block_size));
}

/// First the small and ugly: one token, no complete block, windows of one token and longer than the sequence, more
/// slots than blocks. Then the head, group and block sizes of the CUDA kernel.
inline const std::vector<DecodeAttentionCase> kDecodeAttentionCases = {
    {{1, 1, 1, 1, 8}, DecodeKeys::tokens},
    {{2, 7, 2, 3, 6}, DecodeKeys::tokens},
    {{2, 19, 1, 3, 6}, DecodeKeys::tokens, 0, 0, 1},
    {{1, 33, 2, 1, 8}, DecodeKeys::tokens, 0, 0, 5},
    {{1, 12, 1, 2, 8}, DecodeKeys::tokens, 0, 0, 40},
    {{1, 1, 1, 1, 8}, DecodeKeys::selected, 4, 1},
    {{2, 26, 2, 2, 8}, DecodeKeys::selected, 4, 3},
    {{1, 31, 1, 3, 8}, DecodeKeys::selected, 4, 20},
    {{2, 3, 2, 3, 6}, DecodeKeys::blocks, 4},
    {{2, 26, 2, 2, 8}, DecodeKeys::blocks, 4},
    {{1, 9, 1, 2, 8}, DecodeKeys::blocks, 1},
    {{1, 1, 1, 1, 64}, DecodeKeys::tokens},
    {{2, 255, 1, 16, 64}, DecodeKeys::tokens},
    {{1, 273, 2, 3, 128}, DecodeKeys::tokens},
    {{1, 130, 1, 32, 64}, DecodeKeys::tokens, 0, 0, 1},
    {{2, 130, 1, 8, 128}, DecodeKeys::tokens, 0, 0, 40},
    {{1, 1, 1, 1, 64}, DecodeKeys::selected, 16, 4},
    {{2, 255, 2, 8, 64}, DecodeKeys::selected, 16, 4},
    {{2, 40, 2, 3, 6}, DecodeKeys::selected, 4, 3, 0, true},
    {{1, 300, 2, 16, 64}, DecodeKeys::selected, 16, 16, 0, true},
    {{1, 90, 1, 4, 128}, DecodeKeys::tokens, 0, 0, 0, true},
    {{1, 273, 1, 16, 128}, DecodeKeys::selected, 32, 18},
    {{2, 200, 2, 1, 64}, DecodeKeys::selected, 64, 2},
    {{2, 15, 1, 2, 64}, DecodeKeys::blocks, 16},
    {{2, 255, 1, 16, 64}, DecodeKeys::blocks, 16},
    {{1, 273, 2, 3, 128}, DecodeKeys::blocks, 32}};

/// Too long for the slow backends: keys in several ranges, also where the first ranges have no key in the window.
inline const std::vector<DecodeAttentionCase> kLongDecodeAttentionCases = {
    {{1, 2100, 1, 2, 64}, DecodeKeys::tokens, 0, 0, 0, true},
    {{1, 2300, 1, 1, 128}, DecodeKeys::tokens, 0, 0, 2060},
    {{1, 3200, 1, 1, 64}, DecodeKeys::tokens}};

struct DecodeAttentionInputs : AttentionInputs {
  std::vector<std::int32_t> indices;  ///< of sparse attention
  Values gates;                       ///< [B, T, HQ, 3]

  explicit DecodeAttentionInputs(const DecodeAttentionCase& c)
      : AttentionInputs(c.dims, c.keys_per_sequence()), gates(random_values(c.dims.B * c.dims.T * c.dims.HQ() * 3, 8)) {
    if (c.keys == DecodeKeys::selected) indices = make_selection(c.dims, c.block_size, c.slots, Earlier::random);
  }
};

/// All tokens of a sequence are queries, in descending order of position; the caches have unused places. The returned
/// `out` is in ascending order.
inline Outputs run_decode_attention(OpRunner& run, const DecodeAttentionCase& c, const DecodeAttentionInputs& in) {
  constexpr std::int64_t kSpare = 5;
  const AttentionDims& d = c.dims;
  const Shape cache = d.key_shape(c.keys_per_sequence() + kSpare);
  const Tensor out = run.act_output(d.query_shape());
  decode_attention(
      run.stream(),
      {.out = out,
       .q = run.act_input(reversed_tokens(in.q, d.B, d.T), d.query_shape()),
       .k = run.act_input(padded_cache(in.k, d.B, kSpare, d.HK * d.D), cache),
       .v = run.act_input(padded_cache(in.v, d.B, kSpare, d.HK * d.D), cache),
       .positions = run.i32_input(descending_positions(d.B, d.T), {d.B, d.T}),
       .gates = c.gates ? run.f32_input(reversed_tokens(in.gates, d.B, d.T), {d.B, d.T, d.HQ(), 3}) : Tensor(),
       .indices = c.keys == DecodeKeys::selected
                      ? run.i32_input(reversed_tokens(in.indices, d.B, d.T), {d.B, d.T, d.HK, c.slots})
                      : Tensor(),
       .scale = d.scale(),
       .tokens_per_key = c.keys == DecodeKeys::blocks ? c.block_size : 1,
       .block_size = c.keys == DecodeKeys::selected ? c.block_size : 0,
       .window = c.window});
  return {{"out", reversed_tokens(run.read(out), d.B, d.T)}};
}

}  // namespace ssa::test
