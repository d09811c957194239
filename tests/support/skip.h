// Tests that need a GPU. ctest reports a test that prints this line as Skipped, not as Passed.
#pragma once

#include <cstdio>

#include "ssa/runtime/stream.h"

namespace ssa::test {

/// True when this build or machine has no GPU; it then says so in the line ctest looks for.
inline bool skip_without_gpu() {
  if (cuda_device_count() > 0) return false;
  std::puts("skipped: no GPU on this machine");
  return true;
}

}  // namespace ssa::test
