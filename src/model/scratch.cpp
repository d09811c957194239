#include <algorithm>

#include "ssa/model/llama.h"
#include "ssa/ops/rmsnorm.h"

namespace ssa {

std::size_t pass_scratch_bytes(const ModelConfig& c, const PassShape& shape, BlockSelection selection,
                               DeviceKind kind) {
  static_cast<void>(shape), static_cast<void>(selection);
  return rmsnorm_backward_scratch_bytes(kind, c.hidden_size);
}

}  // namespace ssa
