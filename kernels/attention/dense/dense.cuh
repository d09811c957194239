// Launches of the dense attention kernels with a mask of mask.cuh.
#pragma once

#include <algorithm>
#include <map>
#include <type_traits>

#include "bwd_hopper.cuh"
#include "bwd_mma_sync.cuh"
#include "fwd_hopper.cuh"
#include "fwd_mma_sync.cuh"
#include "kernels/attention/dispatch.cuh"
#include "kernels/attention/documents.h"
#include "kernels/common/device/launch.cuh"
#include "mask.cuh"
#include "ssa/runtime/arena.h"

namespace ssa::cuda {

/// The forward's scratch memory: the Hopper form with documents hands out tasks from a counter.
inline constexpr std::size_t kDenseForwardScratchBytes = sizeof(std::int32_t);

template <class C>
FwdHopperArgs fwd_hopper_args(const char* op, const DenseForwardArgs& a, int B, const cudaDeviceProp& gpu) {
  const int G = a.HQ / a.HK;
  int log2_heads = 0;
  while (2 << log2_heads <= C::kMaxHeads && G % (2 << log2_heads) == 0) ++log2_heads;
  const int heads = 1 << log2_heads, groups = B * a.HQ / heads;
  const int q_tiles = static_cast<int>(ctas_for(a.T, C::kBlockM / heads));
  // As many key/value heads at a time as fit in a small part of L2; their groups share them.
  const std::int64_t kv_bytes = std::int64_t{a.U} * C::kD * 2 * sizeof(__nv_bfloat16);
  const std::int64_t kv_heads = std::max<std::int64_t>(1, gpu.l2CacheSize / C::kL2Parts / kv_bytes);
  const int section_groups = static_cast<int>(std::min<std::int64_t>(groups, kv_heads * (G / heads)));
  return {.q = tensor_map_heads(op, a.q, B, a.T, a.HQ, C::kD, heads),
          .k = tensor_map(op, a.k, B, a.U, a.HK * C::kHalves),
          .v = tensor_map(op, a.v, B, a.U, a.HK * C::kHalves),
          .out = tensor_map_heads(op, a.out, B, a.T, a.HQ, C::kD, heads),
          .in = a,
          .scale_log2 = a.scale * kLog2e,
          .heads = heads,
          .log2_heads = log2_heads,
          .q_tiles = q_tiles,
          .groups = groups,
          .section_groups = section_groups,
          .sections = (groups + section_groups - 1) / section_groups,
          .tasks = q_tiles * groups,
          .ticket = nullptr};
}

/// `documents` must be given.
template <class Base>
InDocuments<Base> in_documents(const Base& base, const DocumentBounds& documents) {
  return {.base = base,
          .begin = documents.begin.as<std::int32_t>(),
          .end = documents.end.as<std::int32_t>(),
          .T = static_cast<int>(documents.begin.dim(1))};
}

template <int kD, class Mask>
void fwd_hopper(Stream& stream, const char* op, const DenseForwardArgs& a, int B, const Mask& mask) {
  using C = FwdHopperConfig<kD>;
  const cudaDeviceProp& gpu = stream.cuda().properties;
  FwdHopperArgs h = fwd_hopper_args<C>(op, a, B, gpu);
  if constexpr (kIsInDocuments<Mask>) {
    h.ticket = static_cast<std::int32_t*>(stream.scratch(kDenseForwardScratchBytes));
    stream.zero(Tensor(h.ticket, DType::i32, {1}));
  }
  launch(stream, op, fwd_hopper_kernel<C, Mask>,
         {.grid = static_cast<unsigned>(std::min(h.tasks, gpu.multiProcessorCount)),
          .block = C::kThreads,
          .shared_bytes = sizeof(typename C::Shared)},
         h, mask);
}

template <class Mask>
void dense_forward(Stream& stream, const char* op, std::int64_t block_size, const DenseForwardArgs& a, int B,
                   int head_dim, const Mask& mask) {
  const auto run = [&]<class C>(void (*kernel)(DenseForwardArgs, Mask)) {
    launch(stream, op, kernel,
           {.grid = dim3(static_cast<unsigned>(a.HQ), ctas_for(a.T, C::kBlockM), static_cast<unsigned>(B)),
            .block = C::kThreads,
            .shared_bytes = sizeof(typename C::Shared)},
           a, mask);
  };
  dispatch_head_dim(op, head_dim, a.HQ / a.HK, block_size, [&]<int kD>() {
    // The tiles of the Hopper form are too large for block means, of which a token attends to few.
    if constexpr (!Mask::kBlockMeans) {
      if (has_wgmma(stream)) return fwd_hopper<kD>(stream, op, a, B, mask);
    }
    using C = FwdMmaSyncConfig<kD, kIsInDocuments<Mask>>;
    run.template operator()<C>(fwd_mma_sync_kernel<C, Mask>);
  });
}

/// The backward's scratch memory: the counters that order its CTAs, for the largest number of chunks, and for Hopper
/// lse and delta by heads.
struct DenseBackwardScratch {
  Tensor ticket, kv_done, steps_done, row_values;

  DenseBackwardScratch(Arena& arena, std::int64_t B, std::int64_t T, std::int64_t U, std::int64_t HQ, std::int64_t HK) {
    constexpr std::int64_t kKeys = 128, kRows = 128, kWarpgroups = BwdHopperConfig<64>::kWarpgroups;
    static_assert(kKeys == BwdMmaSyncConfig<64, false>::kBlockN && kKeys == BwdMmaSyncConfig<128, false>::kBlockN &&
                  kKeys == BwdHopperConfig<64>::kBlockN && kKeys == BwdHopperConfig<128>::kBlockN &&
                  kRows % BwdHopperConfig<64>::kBlockM == 0 && kRows % BwdHopperConfig<128>::kBlockM == 0);
    const std::int64_t kv_tiles = (U + kKeys - 1) / kKeys;
    ticket = arena.allocate("ticket", DType::i32, {1});
    kv_done = arena.allocate("kv_done", DType::i32, {B, HK, kv_tiles});
    steps_done = arena.allocate("steps_done", DType::i32, {HQ / HK, B, HK, kv_tiles * kWarpgroups});
    row_values = arena.allocate("row_values", DType::f32, {B, HQ, (T + kRows - 1) / kRows, 2 * kRows});
  }
};

/// T tokens and U keys per sequence.
inline std::size_t dense_backward_scratch_bytes(std::int64_t B, std::int64_t T, std::int64_t U, std::int64_t HQ,
                                                std::int64_t HK) {
  Arena measure;
  DenseBackwardScratch(measure, B, T, U, HQ, HK);
  return measure.used();
}

/// Parts into which `count` is cut in halves until there are at least `wanted` tasks; `tasks` is the number without.
inline int parts_for(std::int64_t tasks, std::int64_t wanted, int count) {
  int parts = 1;
  while (parts < count && tasks * parts < wanted) parts *= 2;
  const int size = (count + parts - 1) / parts;
  return (count + size - 1) / size;
}

/// Heads per task of the Hopper backward, a power of two: as many as leave enough tasks that all SMs end together, and
/// keep q, d_out and d_q of the heads in flight in L2. `tasks` is their number with one head each; they visit up to T
/// tokens.
template <class C>
int bwd_heads_per_task(std::int64_t T, int kv_tiles, std::int64_t tasks, int G, const cudaDeviceProp& gpu) {
  constexpr std::int64_t kBytesPerToken = C::kD * (2 * sizeof(__nv_bfloat16) + sizeof(float)), kTasksPerSm = 7;
  const std::int64_t sms = gpu.multiProcessorCount, units = sms / kv_tiles + 1, l2 = gpu.l2CacheSize / 5 * 4;
  int heads = 1;
  while (heads * 2 <= G && units * heads * 2 * T * kBytesPerToken < l2 && tasks / (heads * 2) >= kTasksPerSm * sms)
    heads *= 2;
  return heads;
}

/// The same with kLongestTasksFirst: as many as let the last SM end earliest, by a count of steps. `units` is the
/// number of (sequence, query head). Counted without documents; with them, tasks are shorter and more alike.
template <class C, class Mask>
int bwd_heads_per_long_task(int T, int kv_tiles, std::int64_t units, int G, const Mask& mask,
                            const cudaDeviceProp& gpu) {
  constexpr std::int64_t kTaskSwitch = 2;  // in steps
  const auto end_with = [&](int heads) {
    // The next task is taken by the SM that ends first. Many end at the same time.
    std::map<std::int64_t, std::int64_t> sms_by_end = {{0, gpu.multiProcessorCount}};
    const auto q_tiles = static_cast<std::int64_t>(ctas_for(T, C::kBlockM));
    std::int64_t end = 0;
    for (std::int64_t kv_tile = 0; kv_tile < kv_tiles; ++kv_tile) {
      const std::int64_t q_tile_begin = kv_tile * C::kBlockN * mask.tokens_per_key() / C::kBlockM;
      const std::int64_t length = std::max<std::int64_t>(0, q_tiles - q_tile_begin) * heads + kTaskSwitch;
      for (std::int64_t tasks = (units + heads - 1) / heads; tasks > 0;) {
        const auto [start, sms] = *sms_by_end.begin();
        const std::int64_t taken = std::min(tasks, sms);
        sms_by_end.erase(sms_by_end.begin());
        if (taken < sms) sms_by_end[start] = sms - taken;
        sms_by_end[start + length] += taken;
        end = std::max(end, start + length);
        tasks -= taken;
      }
    }
    return end;
  };
  int best = 1;
  std::int64_t best_end = end_with(1);
  for (int heads = 2; heads <= G; heads *= 2) {
    const std::int64_t end = end_with(heads);
    if (end > best_end) break;
    best = heads, best_end = end;
  }
  return best;
}

template <int kD, class Mask>
void bwd_hopper(Stream& stream, const char* op, const DenseBackwardArgs& a, const DenseBackwardScratch& scratch,
                const Mask& mask) {
  using C = BwdHopperConfig<kD>;
  const cudaDeviceProp& gpu = stream.cuda().properties;
  const int G = a.HQ / a.HK, kv_tiles = static_cast<int>(ctas_for(a.U, C::kBlockN));
  const std::int64_t tasks = static_cast<std::int64_t>(a.B) * a.HK * kv_tiles;
  const auto heads_per_task = [&] {
    if constexpr (kLongestTasksFirst<Mask>)
      return bwd_heads_per_long_task<C>(a.T, kv_tiles, std::int64_t{a.B} * a.HQ, G, base_of(mask), gpu);
    // Of several documents in a sequence, at least one has no more than half of its tokens. With more heads per task,
    // short documents cost fewer task switches.
    return bwd_heads_per_task<C>(kIsInDocuments<Mask> ? (a.T + 1) / 2 : a.T, kv_tiles, tasks * G, G, gpu);
  };
  const int heads = heads_per_task(), chunks = (G + heads - 1) / heads;

  float* row_values = scratch.row_values.as<float>();
  int *counters = scratch.ticket.as<int>(), *counters_end = scratch.steps_done.as<int>() + scratch.steps_done.count();
  launch(stream, op, row_values_kernel<C>,
         {.grid = dim3(ctas_for(a.T, C::kBlockM), ctas_for(a.HQ, 32), static_cast<unsigned>(a.B)), .block = 256},
         row_values, a.lse, a.delta, a.T, a.HQ, a.scale, counters, static_cast<int>(counters_end - counters));
  const BwdHopperArgs h = {.q = tensor_map(op, a.q, a.B, a.T, a.HQ * C::kHalves),
                           .k = tensor_map(op, a.k, a.B, a.U, a.HK * C::kHalves),
                           .v = tensor_map(op, a.v, a.B, a.U, a.HK * C::kHalves),
                           .d_out = tensor_map(op, a.d_out, a.B, a.T, a.HQ * C::kHalves),
                           .d_q = tensor_map(op, a.d_q, a.B, a.T, a.HQ * (C::kD / 32)),
                           .d_k = a.d_k,
                           .d_v = a.d_v,
                           .row_values = row_values,
                           .B = a.B,
                           .T = a.T,
                           .U = a.U,
                           .HQ = a.HQ,
                           .HK = a.HK,
                           .scale = a.scale,
                           .scale_log2 = a.scale * kLog2e,
                           .accumulate_q = a.accumulate_q,
                           .accumulate_kv = a.accumulate_kv,
                           .kv_tiles = kv_tiles,
                           .chunks = chunks,
                           .heads_per_chunk = heads,
                           .ticket = scratch.ticket.as<int>(),
                           .kv_done = scratch.kv_done.as<int>(),
                           .steps_done = scratch.steps_done.as<int>()};
  launch(
      stream, op, bwd_hopper_kernel<C, Mask>,
      {.grid = static_cast<unsigned>(tasks * chunks), .block = C::kThreads, .shared_bytes = sizeof(typename C::Shared)},
      h, mask);
}

/// Fills in the task shape and the counters of `a`.
template <class Mask>
void dense_backward(Stream& stream, const char* op, std::int64_t block_size, DenseBackwardArgs a, int head_dim,
                    const Mask& mask) {
  const int G = a.HQ / a.HK;
  dispatch_head_dim(op, head_dim, G, block_size, [&]<int kD>() {
    const std::size_t bytes = dense_backward_scratch_bytes(a.B, a.T, a.U, a.HQ, a.HK);
    Arena arena(stream.scratch(bytes), bytes);
    const DenseBackwardScratch scratch(arena, a.B, a.T, a.U, a.HQ, a.HK);
    if (has_wgmma(stream)) return bwd_hopper<kD>(stream, op, a, scratch, mask);
    for (const Tensor& counter : {scratch.ticket, scratch.kv_done, scratch.steps_done}) stream.zero(counter);
    const auto run = [&]<class C>() {
      a.kv_tiles = (a.U + C::kBlockN - 1) / C::kBlockN;
      a.ticket = scratch.ticket.template as<int>();
      a.kv_done = scratch.kv_done.template as<int>();
      a.steps_done = scratch.steps_done.template as<int>();
      // Enough tasks that the last and longest ones leave few SMs idle.
      constexpr int kTasksPerSm = 16;
      const std::int64_t tasks = static_cast<std::int64_t>(a.B) * a.HK * a.kv_tiles;
      a.chunks = parts_for(tasks, stream.cuda().properties.multiProcessorCount * std::int64_t{kTasksPerSm}, G);
      a.heads_per_chunk = (G + a.chunks - 1) / a.chunks;
      launch(stream, op, bwd_mma_sync_kernel<C, Mask>,
             {.grid = static_cast<unsigned>(tasks * a.chunks),
              .block = C::kThreads,
              .shared_bytes = sizeof(typename C::Shared)},
             a, mask);
    };
    using Large = BwdMmaSyncConfig<kD, false>;
    if (sizeof(typename Large::Shared) <= stream.cuda().properties.sharedMemPerBlockOptin)
      run.template operator()<Large>();
    else
      run.template operator()<BwdMmaSyncConfig<kD, true>>();
  });
}

}  // namespace ssa::cuda
