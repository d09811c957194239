// The memory of this machine.
#pragma once

#include <filesystem>

#include "ssa/runtime/stream.h"

namespace ssa {

/// Where Linux says how much memory there is.
struct MemoryFiles {
  std::filesystem::path meminfo = "/proc/meminfo";
  std::filesystem::path own_groups = "/proc/self/cgroup";  ///< the control groups of this process
  std::filesystem::path groups = "/sys/fs/cgroup";         ///< cgroup v2; groups of v1 are in its memory/
};

/// Of the machine, or of a control group of this process (of a container, of a batch job) where its limit leaves less.
/// What the page cache can give back counts as free.
MemoryInfo host_memory_info(const MemoryFiles& files = {});

/// With all threads of OpenMP: one thread takes seconds for the optimizer state of billions of parameters.
void zero_on_host(void* memory, std::size_t bytes);
void copy_on_host(void* to, const void* from, std::size_t bytes);

}  // namespace ssa
