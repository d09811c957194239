// Which blocks each (token, key/value head) attends (Native Sparse Attention, arXiv 2502.11089, section 3.3.2, with
// mean-pooled keys).
//
//   importance(t, n) = sum over the head's G query heads of softmax over the COMPLETE blocks (last token <= t) of
//                      scale * q[t] . k_mean[n]
// The token's own block t / block_size is always taken; it and the best S - 1 others before it are chosen. Blocks that
// are complete come before none: a block after the own one is never chosen. Equal importance: the lower index wins.
// Nothing is differentiated here. Heads are summed in ascending order, in f32.
//
// BlockSelection::reference repeats the published Triton kernel where it is not exact (S > block_size / 2, own block
// index >= block_size): with c = own block rounded down to a multiple of block_size, the best block_size / 2 of the
// blocks before c, and the best block_size / 2 of those from c on (the own one among them).
#pragma once

#include <algorithm>

#include "kernels/common/dispatch.h"

namespace ssa {

enum class BlockSelection { exact, reference };

struct SelectBlocks {
  Tensor indices;         ///< [B, T, HK, S'] i32: chosen blocks ascending, then -1; S' = selected_slots(...)
  Tensor q;               ///< [B, T, HQ, D] act
  Tensor k_mean;          ///< [B, N, HK, D] act
  Tensor positions = {};  ///< [B, T] i32: t of each query, where N is any number of blocks that holds it (decoding, a
                          ///< few queries); absent = 0, 1, ... T - 1
  float scale;            ///< of the scores: D^-1/2
  std::int64_t block_size;
  std::int64_t block_counts;
  BlockSelection mode = BlockSelection::exact;
};
SSA_OP(select_blocks, SelectBlocks);

/// Most blocks one token can select: block_counts, or block_size / 2 * 2 if the reference mode gives more.
inline std::int64_t selected_slots(std::int64_t block_size, std::int64_t block_counts, BlockSelection mode) {
  if (mode == BlockSelection::exact || block_counts <= block_size / 2) return block_counts;
  return std::max(block_counts, block_size / 2 * 2);
}

}  // namespace ssa
