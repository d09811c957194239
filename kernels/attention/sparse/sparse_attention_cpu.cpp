#include "sparse_attention.h"

#include "kernels/attention/attention_cpu.h"

namespace ssa::cpu {
namespace {

/// The tokens up to t in the blocks of indices[b, t, kv_head].
auto selected_keys_of(const Tensor& indices, std::int64_t block_size) {
  return [all = indices.as<std::int32_t>(), T = indices.dim(1), HK = indices.dim(2), slots = indices.dim(3),
          block_size](std::int64_t b, std::int64_t t, std::int64_t kv_head, Keys& keys) {
    const std::int32_t* blocks = all + ((b * T + t) * HK + kv_head) * slots;
    list_tokens(blocks, slots, block_size, t + 1, keys);
  };
}

}  // namespace

void sparse_attention_forward(Stream&, const SparseAttentionForward& p) {
  attention_forward(p, selected_keys_of(p.indices, p.block_size));
}

void sparse_attention_backward(Stream& stream, const SparseAttentionBackward& p) {
  if (!p.accumulate)
    for (const Tensor& gradient : {p.d_q, p.d_k, p.d_v}) stream.zero(gradient);
  attention_backward(p, selected_keys_of(p.indices, p.block_size));
}

}  // namespace ssa::cpu
