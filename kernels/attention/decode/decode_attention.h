// Attention of a few queries, each with its own position, over a key/value cache. Gives the result of causal,
// sliding-window, sparse or compressed attention at that position without recomputing the tokens before it.
//   out = gate * (sum over u of softmax(scale * q . k[u]) v[u])
// where the sum is rounded to act, and gate is g_slc of gated_sum.h: without other branches out is that op's.
// The query at `position` attends to key u if
//   - the key is complete: (u + 1) * tokens_per_key <= position + 1. A key covers tokens_per_key tokens: 1 for the key
//     of a token, block_size for a block mean of compressed attention;
//   - window is 0, or u > position - window (only with tokens_per_key 1);
//   - indices are absent, or u is in one of the query's blocks (only with tokens_per_key 1, and not with a window).
// A query that attends to no key has out = 0. Keys that no query attends to are not read.
//
// out is overwritten and may not alias inputs. The sums have a fixed order: a repeated run gives the same bits. A wrong
// shape or dtype or a combination of options excluded above throws Error, on CUDA also a head size, group or block size
// that the attention kernels do not support. Positions are not checked.
#pragma once

#include "kernels/common/dispatch.h"

namespace ssa {

struct DecodeAttention {
  Tensor out;           ///< [B, T, HQ, D] act, overwritten
  Tensor q;             ///< [B, T, HQ, D] act
  Tensor k;             ///< [B, C, HK, D] act, up to C keys per sequence
  Tensor v;             ///< [B, C, HK, D] act
  Tensor positions;     ///< [B, T] i32: the position of each query, in [0, C * tokens_per_key)
  Tensor gates = {};    ///< [B, T, HQ, 3] f32, of which [.., 1] is read; absent = 1
  Tensor indices = {};  ///< [B, T, HK, S'] i32, from select_blocks; absent = no selection
  float scale;
  std::int64_t tokens_per_key = 1;
  std::int64_t block_size = 0;  ///< tokens per block of indices
  std::int64_t window = 0;      ///< tokens attended, the query's own included; 0 = all
};
SSA_OP_WITH_SCRATCH(decode_attention, DecodeAttention);

}  // namespace ssa
