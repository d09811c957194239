// A hash of device memory: equal hashes mean that two results have the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ssa/runtime/stream.h"

namespace ssa::cuda {

/// *sum += a hash of the first `bytes` bytes (an even number) of `data`. Both pointers are device memory.
void add_checksum(Stream& stream, std::uint64_t* sum, const void* data, std::size_t bytes);

}  // namespace ssa::cuda
