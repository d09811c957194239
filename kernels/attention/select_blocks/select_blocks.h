// Chooses the blocks of keys that each (token, key/value head) attends to: Native Sparse Attention (arXiv 2502.11089,
// section 3.3.2) with mean-pooled keys.
//
//   importance(t, n) = sum over the key/value head's G query heads of softmax over n of scale * q[t] . k_mean[n]
//   where n runs over the complete blocks, those whose last token is <= t
//
// The token's own block t / block_size is always chosen, and the S - 1 most important of the earlier blocks. The
// candidates are the blocks before it, all complete; later blocks are never chosen. Equal importance: the
// lower index wins. Heads are summed in f32 in a fixed order.
//
// BlockSelection::reference repeats the published Triton kernel where it differs from this definition, which is for
// S > block_size / 2 and t / block_size >= block_size. With c = the token's own block t / block_size rounded down to a
// multiple of block_size, it chooses the block_size / 2 most important of the blocks before c, and block_size / 2 of
// the blocks from c to the own block, including the own block.
//
// With `documents`, complete blocks and candidates are those of the token's document piece, and blocks are counted from
// the piece's first one in what is said of reference mode. indices are counted from the sequence's first block.
//
// indices is overwritten and may not alias inputs. There is no gradient: the backward of attention takes the indices as
// constants. A repeated run on the same device gives the same indices.
#pragma once

#include <algorithm>
#include <initializer_list>

#include "kernels/attention/documents.h"
#include "kernels/common/dispatch.h"

namespace ssa {

enum class BlockSelection { exact, reference };
inline constexpr std::initializer_list<BlockSelection> kBlockSelections = {BlockSelection::exact,
                                                                           BlockSelection::reference};

struct SelectBlocks {
  Tensor indices;         ///< [B, T, HK, S'] i32: the chosen blocks, ascending, then -1; S' = selected_slots(...)
  Tensor q;               ///< [B, T, HQ, D] act
  Tensor k_mean;          ///< [B, N, HK, D] act: mean key of each block
  Tensor positions = {};  ///< [B, T] i32: t of each query, for decoding; N may then exceed ceil(T / block_size).
                          ///< Absent = 0, 1, ... T - 1
  DocumentBounds documents = {};  ///< not with positions
  float scale;                    ///< D^-1/2
  std::int64_t block_size;
  std::int64_t block_counts;
  BlockSelection mode = BlockSelection::exact;
};
SSA_OP_WITH_SCRATCH(select_blocks, SelectBlocks);

/// S': the most blocks one token can select. block_counts, or block_size / 2 * 2 if that is more in reference mode.
inline std::int64_t selected_slots(std::int64_t block_size, std::int64_t block_counts, BlockSelection mode) {
  if (mode == BlockSelection::exact || block_counts <= block_size / 2) return block_counts;
  return std::max(block_counts, block_size / 2 * 2);
}

}  // namespace ssa
