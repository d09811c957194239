// For tests that train in FP8 on a GPU.
#pragma once

#include <cstdio>
#include <string>

#include "kernels/fp8_matmul/fp8_matmul.h"
#include "support/skip.h"

namespace ssa::test {

/// True when there is no GPU, or none that trains in FP8, after saying so, as skip_without_gpu.
inline bool skip_without_fp8() {
  if (skip_without_gpu()) return true;
  Stream stream(DeviceKind::cuda);
  const std::string reason = why_no_fp8(stream);
  if (reason.empty()) return false;
  std::puts(("skipped: no GPU on this machine for it: " + reason).c_str());
  return true;
}

}  // namespace ssa::test
