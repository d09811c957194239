// Attention of a few queries, each at a position of its own, to a key/value cache: what causal, sparse and compressed
// attention compute for the token at that position, without the tokens before it being queries too.
//   out = sum over u of softmax(scale * q . k[u]) v[u],   u among the keys that the query sees:
//   - a key stands for tokens_per_key tokens and is seen once the last of them is: (u + 1) tokens_per_key <= position +
//   1
//     (1: tokens; block_size: the block means of compressed attention)
//   - with window > 0, only u > position - window (tokens only)
//   - with indices, only tokens of those blocks
// A query that sees no key has out = 0. Keys that no query sees are not read.
#pragma once

#include "kernels/common/dispatch.h"

namespace ssa {

struct DecodeAttention {
  Tensor out;           ///< [B, T, HQ, D] act
  Tensor q;             ///< [B, T, HQ, D] act
  Tensor k;             ///< [B, C, HK, D] act, C keys a row at most
  Tensor v;             ///< [B, C, HK, D] act
  Tensor positions;     ///< [B, T] i32: of the queries' tokens, each in [0, C tokens_per_key)
  Tensor indices = {};  ///< [B, T, HK, S'] i32 as select_blocks leaves them; absent = no selection
  float scale;
  std::int64_t tokens_per_key = 1;
  std::int64_t block_size = 0;  ///< tokens of the blocks in indices
  std::int64_t window = 0;      ///< tokens seen, the own one included; 0 = all
};
SSA_OP(decode_attention, DecodeAttention);

}  // namespace ssa
