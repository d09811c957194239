// From a head size known at run time to kernels compiled for it.
#pragma once

#include <cstdint>

#include "cuda_support.h"

namespace ssa::cuda {

/// Calls f.operator()<64>() or f.operator()<128>(). Throws Error for a shape that the attention kernels do not support.
/// block_size 0: the op has no blocks.
template <class F>
void dispatch_head_dim(const char* op, std::int64_t head_dim, std::int64_t group, std::int64_t block_size, F&& f) {
  const std::string reason = why_unsupported(head_dim, group, block_size);
  SSA_CHECK(reason.empty(), op, ": ", reason);
  if (head_dim == 64)
    f.template operator()<64>();
  else
    f.template operator()<128>();
}

}  // namespace ssa::cuda
