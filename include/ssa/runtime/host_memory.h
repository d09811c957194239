// The memory of this machine.
#pragma once

#include "ssa/runtime/stream.h"

namespace ssa {

/// What the page cache can give back counts as free.
MemoryInfo host_memory_info();

}  // namespace ssa
