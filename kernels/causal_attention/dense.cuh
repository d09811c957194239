// Launches of the dense attention kernels over a rule of visibility.cuh.
#pragma once

#include <type_traits>

#include "kernels/causal_attention/dense_backward_hopper.cuh"
#include "kernels/causal_attention/dense_forward.cuh"
#include "kernels/causal_attention/dense_forward_hopper.cuh"
#include "kernels/common/attention_dispatch.cuh"
#include "kernels/common/launch.cuh"
#include "kernels/common/visibility.cuh"
#include "ssa/runtime/arena.h"

namespace ssa::cuda {

template <class Visibility>
void dense_forward(Stream& stream, const char* op, std::int64_t block_size, const DenseForwardArgs& a, int B,
                   int head_dim, const Visibility& visible) {
  const auto run = [&]<class C>(void (*kernel)(DenseForwardArgs, Visibility)) {
    launch(stream, op, kernel,
           {.grid = dim3(static_cast<unsigned>(a.HQ), blocks_for(a.T, C::kQueries), static_cast<unsigned>(B)),
            .block = C::kThreads,
            .shared_bytes = sizeof(typename C::Shared)},
           a, visible);
  };
  dispatch_head_dim(op, head_dim, a.HQ / a.HK, block_size, [&]<int kD>() {
    if constexpr (kD == 64 && std::is_same_v<Visibility, Causal>) {  // its tiles are too large for short ranges of keys
      if (has_wgmma(stream)) {
        using C = DenseForwardHopperConfig;
        return run.template operator()<C>(dense_forward_hopper_kernel<C, Visibility>);
      }
    }
    using C = DenseForwardConfig<kD>;
    run.template operator()<C>(dense_forward_kernel<C, Visibility>);
  });
}

/// The counters that order the blocks of the backward, for as many chunks as there can be.
struct DenseBackwardScratch {
  Tensor ticket, steps_done, keys_done;

  DenseBackwardScratch(Arena& arena, std::int64_t B, std::int64_t HQ, std::int64_t HK, std::int64_t key_tiles)
      : ticket(arena.allocate("ticket", DType::i32, {1})),
        steps_done(arena.allocate("steps_done", DType::i32, {HQ / HK, B, HK, key_tiles})),
        keys_done(arena.allocate("keys_done", DType::i32, {B, HK, key_tiles})) {}
};

inline constexpr int kBackwardKeys = 128;
static_assert(kBackwardKeys == DenseBackwardConfig<64>::kKeys && kBackwardKeys == DenseBackwardConfig<128>::kKeys &&
              kBackwardKeys == DenseBackwardHopperConfig::kKeys);

/// U keys a row.
inline std::size_t dense_backward_scratch_bytes(std::int64_t B, std::int64_t U, std::int64_t HQ, std::int64_t HK) {
  Arena measure;
  DenseBackwardScratch(measure, B, HQ, HK, (U + kBackwardKeys - 1) / kBackwardKeys);
  return measure.used();
}

/// `a` comes without its task shape and counters.
template <class Visibility>
void dense_backward(Stream& stream, const char* op, std::int64_t block_size, DenseBackwardArgs a, int head_dim,
                    const Visibility& visible) {
  const int G = a.HQ / a.HK;
  const auto run = [&]<class C>(void (*kernel)(DenseBackwardArgs, Visibility)) {
    a.key_tiles = (a.U + C::kKeys - 1) / C::kKeys;
    const std::size_t bytes = dense_backward_scratch_bytes(a.B, a.U, a.HQ, a.HK);
    Arena arena(stream.scratch(bytes), bytes);
    const DenseBackwardScratch scratch(arena, a.B, a.HQ, a.HK, a.key_tiles);
    stream.zero(Tensor(scratch.ticket.data(), DType::u8, {static_cast<std::int64_t>(bytes)}));
    a.ticket = scratch.ticket.template as<int>();
    a.steps_done = scratch.steps_done.template as<int>();
    a.keys_done = scratch.keys_done.template as<int>();
    // Enough tasks that the last and longest ones leave few SMs idle.
    constexpr int kTasksPerSm = 16;
    const std::int64_t tasks = static_cast<std::int64_t>(a.B) * a.HK * a.key_tiles;
    const std::int64_t wanted = static_cast<std::int64_t>(stream.cuda().properties.multiProcessorCount) * kTasksPerSm;
    a.chunks = 1;
    while (a.chunks < G && tasks * a.chunks < wanted) a.chunks *= 2;
    a.heads_per_chunk = (G + a.chunks - 1) / a.chunks;
    a.chunks = (G + a.heads_per_chunk - 1) / a.heads_per_chunk;
    launch(stream, op, kernel,
           {.grid = static_cast<unsigned>(tasks * a.chunks),
            .block = C::kThreads,
            .shared_bytes = sizeof(typename C::Shared)},
           a, visible);
  };
  dispatch_head_dim(op, head_dim, G, block_size, [&]<int kD>() {
    if constexpr (kD == 64) {
      if (has_wgmma(stream)) {
        using C = DenseBackwardHopperConfig;
        return run.template operator()<C>(dense_backward_hopper_kernel<C, Visibility>);
      }
    }
    using C = DenseBackwardConfig<kD>;
    run.template operator()<C>(dense_backward_kernel<C, Visibility>);
  });
}

}  // namespace ssa::cuda
