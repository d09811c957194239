// The memory of this machine.
#pragma once

#include "ssa/runtime/stream.h"

namespace ssa {

/// What the page cache can give back counts as free.
MemoryInfo host_memory_info();

/// With all threads of OpenMP: one thread takes seconds for the optimizer state of billions of parameters.
void zero_on_host(void* memory, std::size_t bytes);
void copy_on_host(void* to, const void* from, std::size_t bytes);

}  // namespace ssa
