#include <algorithm>

#include "kernels/attention/compressed/compressed_attention.h"
#include "kernels/attention/dense/causal_attention.h"
#include "kernels/attention/gates/gate_alignment.h"
#include "kernels/attention/sparse/sparse_attention.h"
#include "kernels/attention/stats/attention_divergence.h"
#include "kernels/attention/stats/attention_stats.h"
#include "kernels/embedding/embedding.h"
#include "kernels/linear_cross_entropy/linear_cross_entropy.h"
#include "kernels/optimizer/optimizer.h"
#include "kernels/rmsnorm/rmsnorm.h"
#include "ssa/model/llama.h"

namespace ssa {

std::size_t pass_scratch_bytes(const ModelConfig& c, const PassShape& shape, BlockSelection selection,
                               DeviceKind kind) {
  const std::int64_t B = shape.rows, T = shape.tokens, M = B * T;
  const std::int64_t HQ = c.num_attention_heads, HK = c.num_key_value_heads, D = c.head_dim;
  std::size_t bytes =
      std::max({gate_alignment_forward_scratch_bytes(kind, B, T, HQ), linear_cross_entropy_scratch_bytes(kind, M),
                attention_stats_scratch_bytes(kind, B, T, HQ),
                shape.measure ? attention_divergence_scratch_bytes(kind, B, T, HQ) : 0});
  if (!shape.backward) return bytes;
  const std::int64_t slots = selected_slots(c.block_size, c.block_counts, selection);
  bytes = std::max({bytes, embedding_backward_scratch_bytes(kind, M, c.hidden_size), squared_norm_scratch_bytes(kind),
                    rmsnorm_backward_scratch_bytes(kind, c.hidden_size)});
  const Branches branches = branches_of(shape.path, c);
  if (branches.full || branches.window)
    bytes = std::max(bytes, causal_attention_backward_scratch_bytes(kind, B, T, HQ, HK));
  if (branches.selected)
    bytes = std::max(bytes, sparse_attention_backward_scratch_bytes(kind, B, T, HQ, HK, D, c.block_size, slots));
  if (branches.compressed)
    bytes = std::max(bytes, compressed_attention_backward_scratch_bytes(kind, B, T, HQ, HK, c.block_size));
  return bytes;
}

}  // namespace ssa
