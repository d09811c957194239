// The attention shapes that the CUDA kernels support, so that a config can be refused before anything is allocated.
#pragma once

#include <cstdint>
#include <string>

#include "ssa/base/error.h"

namespace ssa {

/// Why the CUDA attention kernels cannot run a model of this shape; empty if they can. `group` is the number of query
/// heads per key/value head; block_size 0 means no block selection.
inline std::string why_unsupported(std::int64_t head_dim, std::int64_t group, std::int64_t block_size) {
  if (head_dim != 64 && head_dim != 128)
    return concat("head_dim is ", head_dim, ", expected 64 or 128 (the sizes the CUDA kernels support)");
  if (!(1 <= group && group <= 16) && group != 32)
    return concat("there are ", group,
                  " query heads per key/value head, expected 1 to 16 or 32 (what the CUDA kernels support)");
  if (block_size != 0 && block_size != 16 && block_size != 32 && block_size != 64)
    return concat("block_size is ", block_size, ", expected 16, 32 or 64 (the sizes the CUDA kernels support)");
  return {};
}

}  // namespace ssa
