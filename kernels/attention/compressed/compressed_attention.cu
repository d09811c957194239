// The dense attention kernels over block means; a block is visible once it is complete.
#include "compressed_attention.h"

#include "kernels/attention/dense/dense.cuh"

namespace ssa::cuda {

void compressed_attention_forward(Stream& stream, const CompressedAttentionForward& p) {
  constexpr auto op = "compressed_attention_forward";
  const DenseForwardArgs a = {.out = bf16(p.out),
                              .lse = p.lse.as<float>(),
                              .q = bf16(p.q),
                              .k = bf16(p.k_mean),
                              .v = bf16(p.v_mean),
                              .T = static_cast<int>(p.q.dim(1)),
                              .U = static_cast<int>(p.k_mean.dim(1)),
                              .HQ = static_cast<int>(p.q.dim(2)),
                              .HK = static_cast<int>(p.k_mean.dim(2)),
                              .scale = p.scale};
  const CompleteBlocks complete{static_cast<int>(p.block_size)};
  const auto run = [&](const auto& mask) {
    dense_forward(stream, op, p.block_size, a, static_cast<int>(p.q.dim(0)), static_cast<int>(p.q.dim(3)), mask);
  };
  p.documents ? run(in_documents(complete, p.documents)) : run(complete);
}

void compressed_attention_backward(Stream& stream, const CompressedAttentionBackward& p) {
  constexpr auto op = "compressed_attention_backward";
  const DenseBackwardArgs a = {.d_q = p.d_q.as<float>(),
                               .d_k = p.d_k_mean.as<float>(),
                               .d_v = p.d_v_mean.as<float>(),
                               .d_out = bf16(p.d_out),
                               .delta = p.delta.as<float>(),
                               .lse = p.lse.as<float>(),
                               .q = bf16(p.q),
                               .k = bf16(p.k_mean),
                               .v = bf16(p.v_mean),
                               .B = static_cast<int>(p.q.dim(0)),
                               .T = static_cast<int>(p.q.dim(1)),
                               .U = static_cast<int>(p.k_mean.dim(1)),
                               .HQ = static_cast<int>(p.q.dim(2)),
                               .HK = static_cast<int>(p.k_mean.dim(2)),
                               .scale = p.scale,
                               .accumulate_q = p.accumulate,
                               .accumulate_kv = false};
  const CompleteBlocks complete{static_cast<int>(p.block_size)};
  const auto run = [&](const auto& mask) {
    dense_backward(stream, op, p.block_size, a, static_cast<int>(p.q.dim(3)), mask);
  };
  p.documents ? run(in_documents(complete, p.documents)) : run(complete);
}

std::size_t scratch_bytes(const CompressedAttentionBackward& p) {
  return dense_backward_scratch_bytes(p.q.dim(0), p.q.dim(1), p.k_mean.dim(1), p.q.dim(2), p.k_mean.dim(2));
}

}  // namespace ssa::cuda
