// Launches of the dense attention kernels over a rule of visibility.cuh.
#pragma once

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
    if constexpr (kD == 64) {
      if (has_wgmma(stream)) {
        using C = DenseForwardHopperConfig;
        return run.template operator()<C>(dense_forward_hopper_kernel<C, Visibility>);
      }
    }
    using C = DenseForwardConfig<kD>;
    run.template operator()<C>(dense_forward_kernel<C, Visibility>);
  });
}

/// The counters that order the blocks of the backward.
struct DenseBackwardScratch {
  Tensor ticket, queries_done, keys_done;

  DenseBackwardScratch(Arena& arena, std::int64_t B, std::int64_t T, std::int64_t U, std::int64_t HQ, std::int64_t HK,
                       std::int64_t query_tile, std::int64_t key_tile)
      : ticket(arena.allocate("ticket", DType::i32, {1})),
        queries_done(arena.allocate("queries_done", DType::i32, {B, HQ, (T + query_tile - 1) / query_tile})),
        keys_done(arena.allocate("keys_done", DType::i32, {B, HK, (U + key_tile - 1) / key_tile})) {}
};

inline std::size_t dense_backward_scratch_bytes(std::int64_t B, std::int64_t T, std::int64_t U, std::int64_t HQ,
                                                std::int64_t HK, std::int64_t head_dim) {
  Arena measure;
  if (head_dim == 64)
    DenseBackwardScratch(measure, B, T, U, HQ, HK, DenseBackwardConfig<64>::kQueries, DenseBackwardConfig<64>::kKeys);
  else
    DenseBackwardScratch(measure, B, T, U, HQ, HK, DenseBackwardConfig<128>::kQueries, DenseBackwardConfig<128>::kKeys);
  return measure.used();
}

/// `a` comes without its task shape and counters.
template <class Visibility>
void dense_backward(Stream& stream, const char* op, std::int64_t block_size, DenseBackwardArgs a, int head_dim,
                    const Visibility& visible) {
  const int G = a.HQ / a.HK;
  const auto run = [&]<class C>(void (*kernel)(DenseBackwardArgs, Visibility)) {
    const std::size_t bytes = dense_backward_scratch_bytes(a.B, a.T, a.U, a.HQ, a.HK, C::kD);
    Arena arena(stream.scratch(bytes), bytes);
    const DenseBackwardScratch scratch(arena, a.B, a.T, a.U, a.HQ, a.HK, C::kQueries, C::kKeys);
    stream.zero(Tensor(scratch.ticket.data(), DType::u8, {static_cast<std::int64_t>(bytes)}));
    a.ticket = scratch.ticket.template as<int>();
    a.queries_done = scratch.queries_done.template as<int>();
    a.keys_done = scratch.keys_done.template as<int>();
    a.query_tiles = static_cast<int>(scratch.queries_done.dim(2));
    a.key_tiles = static_cast<int>(scratch.keys_done.dim(2));
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
