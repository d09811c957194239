#include "sparse_attention.h"

#include "kernels/attention/attention_cpu.h"

namespace ssa::cpu {
namespace {

/// keys_of for attention_cpu.h: the tokens up to t of the blocks in indices[b, t, kv_head].
auto keys_of(const Tensor& indices, std::int64_t block_size) {
  return [all = indices.as<std::int32_t>(), T = indices.dim(1), HK = indices.dim(2), slots = indices.dim(3),
          block_size](std::int64_t b, std::int64_t t, std::int64_t kv_head, Keys& keys) {
    const std::int32_t* blocks = all + ((b * T + t) * HK + kv_head) * slots;
    keys.clear();
    for (std::int64_t s = 0; s < slots && blocks[s] >= 0; ++s) {
      const std::int64_t begin = blocks[s] * block_size, end = std::min(begin + block_size, t + 1);
      for (std::int64_t u = begin; u < end; ++u) keys.push_back(u);
    }
  };
}

}  // namespace

void sparse_attention_forward(Stream&, const SparseAttentionForward& p) {
  dispatch_real(p.q, [&]<class Real>() {
    attention_forward<Real>({.out = p.out, .lse = p.lse, .q = p.q, .k = p.k, .v = p.v, .scale = p.scale},
                            keys_of(p.indices, p.block_size));
  });
}

void sparse_attention_backward(Stream& stream, const SparseAttentionBackward& p) {
  if (!p.accumulate)
    for (const Tensor& gradient : {p.d_q, p.d_k, p.d_v}) stream.zero(gradient);
  dispatch_real(p.q, [&]<class Real>() {
    attention_backward<Real>({.d_q = p.d_q,
                              .d_k = p.d_k,
                              .d_v = p.d_v,
                              .d_out = p.d_out,
                              .delta = p.delta,
                              .lse = p.lse,
                              .q = p.q,
                              .k = p.k,
                              .v = p.v,
                              .scale = p.scale},
                             keys_of(p.indices, p.block_size));
  });
}

}  // namespace ssa::cpu
