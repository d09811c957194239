// append_qkv, then select_blocks of its q and k_mean at the same positions: one kernel for one token per sequence on
// GPUs with clusters, else both ops. Outputs and errors are theirs.
#pragma once

#include "kernels/attention/decode/append_qkv.h"
#include "kernels/attention/select_blocks/select_blocks.h"

namespace ssa {

struct AppendSelect {
  AppendQkv append;  ///< with k_mean
  Tensor indices;    ///< [B, T, HK, S'] i32, overwritten: as of select_blocks
  float scale;       ///< of scores
  std::int64_t block_counts;
  BlockSelection mode = BlockSelection::exact;

  SelectBlocks select() const {
    return {.indices = indices,
            .q = append.q,
            .k_mean = append.k_mean,
            .positions = append.positions,
            .scale = scale,
            .block_size = append.block_size,
            .block_counts = block_counts,
            .mode = mode};
  }
};
SSA_OP_WITH_SCRATCH(append_select, AppendSelect);

}  // namespace ssa
