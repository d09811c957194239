// Which attention shapes the CUDA kernels serve, so that a config can be refused before anything is allocated.
#pragma once

#include <cstdint>
#include <string>

#include "ssa/base/error.h"

namespace ssa {

/// Why the CUDA attention kernels cannot run a model of this shape; empty when they can. `group` is query heads per
/// key/value head; block_size 0 stands for a model without block selection.
inline std::string why_unsupported(std::int64_t head_dim, std::int64_t group, std::int64_t block_size) {
  if (head_dim != 64 && head_dim != 128) return concat("head_dim is ", head_dim, ", the CUDA kernels serve 64 and 128");
  if (!(1 <= group && group <= 16) && group != 32)
    return concat("there are ", group, " query heads per key/value head, the CUDA kernels serve 1 to 16 and 32");
  if (block_size != 0 && block_size != 16 && block_size != 32 && block_size != 64)
    return concat("block_size is ", block_size, ", the CUDA kernels serve 16, 32 and 64");
  return {};
}

}  // namespace ssa
