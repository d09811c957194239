// Tests that need a GPU report Skipped on a machine without one: ctest looks for this line (tests/CMakeLists.txt).
#pragma once

#include <cstdio>
#include <string>

#include "ssa/runtime/stream.h"

namespace ssa::test {

/// True when there is no GPU, after saying so. Call it first in a test: ctest reports what ran before as Skipped too.
inline bool skip_without_gpu() {
  if (cuda_device_count() > 0) return false;
  std::puts("skipped: no GPU on this machine");
  return true;
}

/// Whether the stream runs the kernels for Hopper: not on other GPUs, in builds without them, and with
/// SSA_FORCE_GENERIC=1.
inline bool has_hopper_kernels(const Stream& stream) {
  return stream.device_name().find(" with Hopper kernels") != std::string::npos;
}

/// True when there are no kernels for Hopper to test, after saying so, as skip_without_gpu.
inline bool skip_without_hopper_kernels() {
  if (skip_without_gpu()) return true;
  if (has_hopper_kernels(Stream(DeviceKind::cuda))) return false;
  std::puts("skipped: no GPU on this machine runs kernels for Hopper");
  return true;
}

}  // namespace ssa::test
