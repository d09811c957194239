// Tests that need a GPU report Skipped on a machine without one: ctest looks for this line (tests/CMakeLists.txt).
#pragma once

#include <cstdio>

#include "ssa/runtime/stream.h"

namespace ssa::test {

/// True when there is no GPU, after saying so. Call it first in a test: ctest reports what ran before as Skipped too.
inline bool skip_without_gpu() {
  if (cuda_device_count() > 0) return false;
  std::puts("skipped: no GPU on this machine");
  return true;
}

}  // namespace ssa::test
