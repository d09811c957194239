// A hint of an op that leaves most of the memory's rate unused, as in decoding: what the ops after it read.
#pragma once

#include <array>

#include "ssa/runtime/tensor.h"

namespace ssa {

/// Memory that later ops read and that no op writes in the meantime. A GPU with compute capability 9.0 or later may
/// load it into L2 while the op runs. Without effect on results.
struct ReadLater {
  static constexpr int kMost = 3;
  std::array<Tensor, kMost> tensors{};
};

}  // namespace ssa
