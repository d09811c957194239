// Scratch of the attention ops. The CUDA half knows what its kernels lay out; the CPU takes none.
#include "kernels/attention/compressed/compressed_attention.h"
#include "kernels/attention/dense/causal_attention.h"
#include "kernels/attention/sparse/sparse_attention.h"
#include "kernels/attention/stats/attention_stats.h"

#if SSA_WITH_CUDA
#define SSA_CUDA_SCRATCH(call) kind == DeviceKind::cuda ? cuda::call : 0
#else
#define SSA_CUDA_SCRATCH(call) 0
#endif

namespace ssa {

std::size_t causal_attention_backward_scratch_bytes([[maybe_unused]] DeviceKind kind, [[maybe_unused]] std::int64_t B,
                                                    [[maybe_unused]] std::int64_t T, [[maybe_unused]] std::int64_t HQ,
                                                    [[maybe_unused]] std::int64_t HK) {
  return SSA_CUDA_SCRATCH(causal_attention_backward_scratch_bytes(B, T, HQ, HK));
}

std::size_t compressed_attention_backward_scratch_bytes(
    [[maybe_unused]] DeviceKind kind, [[maybe_unused]] std::int64_t B, [[maybe_unused]] std::int64_t T,
    [[maybe_unused]] std::int64_t HQ, [[maybe_unused]] std::int64_t HK, [[maybe_unused]] std::int64_t block_size) {
  return SSA_CUDA_SCRATCH(compressed_attention_backward_scratch_bytes(B, T, HQ, HK, block_size));
}

std::size_t sparse_attention_backward_scratch_bytes([[maybe_unused]] DeviceKind kind, [[maybe_unused]] std::int64_t B,
                                                    [[maybe_unused]] std::int64_t T, [[maybe_unused]] std::int64_t HQ,
                                                    [[maybe_unused]] std::int64_t HK,
                                                    [[maybe_unused]] std::int64_t head_dim,
                                                    [[maybe_unused]] std::int64_t block_size,
                                                    [[maybe_unused]] std::int64_t slots) {
  return SSA_CUDA_SCRATCH(sparse_attention_backward_scratch_bytes(B, T, HQ, HK, head_dim, block_size, slots));
}

std::size_t attention_stats_scratch_bytes([[maybe_unused]] DeviceKind kind, [[maybe_unused]] std::int64_t B,
                                          [[maybe_unused]] std::int64_t T, [[maybe_unused]] std::int64_t HQ) {
  return SSA_CUDA_SCRATCH(attention_stats_scratch_bytes(B, T, HQ));
}

}  // namespace ssa
