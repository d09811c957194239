// A hash of device memory, to tell whether two results have the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ssa/runtime/stream.h"

namespace ssa::cuda {

/// *sum += a hash of the first `bytes` of `data`, an even number; both are device memory. The same for the same bits.
void add_checksum(Stream& stream, std::uint64_t* sum, const void* data, std::size_t bytes);

}  // namespace ssa::cuda
