// What the full attention does with the selection: probability inside the selected blocks, and entropy.
//   P = exp(scale * q . k - lse) over u <= t;  selected_mass[h] += sum over rows and tokens of P inside indices[t];
//   entropy[h] += sum over rows and tokens of -sum_u P log P  (nats)
#pragma once

#include "kernels/common/dispatch.h"

namespace ssa {

struct AttentionStats {
  Tensor selected_mass;  ///< [HQ] f64, accumulated: sums over B * T positions
  Tensor entropy;        ///< [HQ] f64, accumulated
  Tensor q;              ///< [B, T, HQ, D] act
  Tensor k;              ///< [B, T, HK, D] act
  Tensor lse;            ///< [B, T, HQ] f32, of full causal attention
  Tensor indices;        ///< [B, T, HK, S'] i32
  float scale;
  std::int64_t block_size;
};
SSA_OP(attention_stats, AttentionStats);

/// Scratch that the op reserves on the stream; 0 on the CPU.
std::size_t attention_stats_scratch_bytes(DeviceKind kind, std::int64_t B, std::int64_t T, std::int64_t HQ);
namespace cuda {
std::size_t attention_stats_scratch_bytes(std::int64_t B, std::int64_t T, std::int64_t HQ);
}

}  // namespace ssa
