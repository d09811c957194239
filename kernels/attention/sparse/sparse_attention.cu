#include "sparse_attention.h"

#include <algorithm>

#include "dkv_dense_groups.cuh"
#include "dkv_lists.cuh"
#include "fwd_dq.cuh"
#include "inverse_index.cuh"
#include "kernels/attention/dispatch.cuh"
#include "kernels/common/device/launch.cuh"
#include "ssa/runtime/arena.h"

namespace ssa::cuda {
namespace {

template <class Params>
SparseArgs args_of(const Params& p) {
  return {.q = bf16(p.q),
          .k = bf16(p.k),
          .v = bf16(p.v),
          .indices = p.indices.template as<std::int32_t>(),
          .B = static_cast<int>(p.q.dim(0)),
          .T = static_cast<int>(p.q.dim(1)),
          .HQ = static_cast<int>(p.q.dim(2)),
          .HK = static_cast<int>(p.k.dim(2)),
          .slots = static_cast<int>(p.indices.dim(3)),
          .block_size = static_cast<int>(p.block_size),
          .scale = p.scale};
}

/// The inverse index and the partial gradients of as many (row, key/value head) pairs as fit, at least one.
struct BackwardScratch {
  static constexpr std::size_t kWantedBytes = std::size_t{640} << 20;
  static constexpr int kSegmentRows = 2048;  ///< (token, head) rows a segment: 64 or more steps of a warp

  static constexpr int kDenseTokens = 16;  ///< of 32: as many as make the partial sum cheaper than reading queries

  std::int64_t heads = 0;
  std::size_t bytes = 0;
  int segment_tokens = 1, max_segments = 0;
  int dense_tokens = kGroupTokens + 1, max_dense = 0;  ///< no dense groups, unless their kernel serves the shape
  Tensor bitmap, token_begin, segment_begin, tokens, segment_block, partials, dense_begin, dense_place, dense_partials;

  BackwardScratch(std::int64_t B, std::int64_t T, std::int64_t HQ, std::int64_t HK, std::int64_t head_dim,
                  std::int64_t block_size, std::int64_t slots) {
    segment_tokens = static_cast<int>(std::max<std::int64_t>(1, kSegmentRows / (HQ / HK)));
    if (head_dim == GroupConfig::kD && HQ / HK == GroupConfig::kHeads) {
      dense_tokens = kDenseTokens;
      max_dense = static_cast<int>(T * slots / dense_tokens);
    }
    const std::int64_t N = (T + block_size - 1) / block_size;
    max_segments = static_cast<int>(T * slots / segment_tokens + N);
    Arena one;
    lay_out(one, 1, T, head_dim, block_size, slots);
    heads = std::clamp<std::int64_t>(static_cast<std::int64_t>(kWantedBytes / one.used()), 1, B * HK);
    Arena all;
    lay_out(all, heads, T, head_dim, block_size, slots);
    bytes = all.used();
  }

  void lay_out(Arena& arena, std::int64_t count, std::int64_t T, std::int64_t head_dim, std::int64_t block_size,
               std::int64_t slots) {
    const std::int64_t N = (T + block_size - 1) / block_size;
    bitmap = arena.allocate("bitmap", DType::i32, {count, N, (T + 31) / 32});
    token_begin = arena.allocate("token_begin", DType::i32, {count, N + 1});
    segment_begin = arena.allocate("segment_begin", DType::i32, {count, N + 1});
    tokens = arena.allocate("tokens", DType::i32, {count, T, slots});
    segment_block = arena.allocate("segment_block", DType::i32, {count, max_segments});
    partials = arena.allocate("partials", DType::f32, {count, max_segments, 2 * block_size, head_dim});
    dense_begin = arena.allocate("dense_begin", DType::i32, {count, N + 1});
    dense_place = arena.allocate("dense_place", DType::i32, {count, N, (T + 31) / 32});
    dense_partials = arena.allocate("dense_partials", DType::f32, {count, max_dense, 2 * block_size, head_dim});
  }
};

constexpr auto kForward = "sparse_attention_forward", kBackward = "sparse_attention_backward";

/// d_k and d_v of the heads [first, first + count), counted over all rows.
template <int kD>
void key_gradients(Stream& stream, const SparseAttentionBackward& p, const SparseArgs& a,
                   const BackwardScratch& scratch, std::int64_t first, std::int64_t count) {
  const int N = static_cast<int>(scratch.bitmap.dim(1)), words = static_cast<int>(scratch.bitmap.dim(2));
  const InverseIndex index = {.bitmap = reinterpret_cast<unsigned*>(scratch.bitmap.as<std::int32_t>()),
                              .token_begin = scratch.token_begin.as<std::int32_t>(),
                              .segment_begin = scratch.segment_begin.as<std::int32_t>(),
                              .tokens = scratch.tokens.as<std::int32_t>(),
                              .segment_block = scratch.segment_block.as<std::int32_t>(),
                              .dense_begin = scratch.dense_begin.as<std::int32_t>(),
                              .dense_place = scratch.dense_place.as<std::int32_t>(),
                              .N = N,
                              .words = words,
                              .max_segments = scratch.max_segments,
                              .segment_tokens = scratch.segment_tokens,
                              .dense_tokens = scratch.dense_tokens,
                              .max_dense = scratch.max_dense};
  const SparseKeyGradients out = {.d_k = p.d_k.as<float>(),
                                  .d_v = p.d_v.as<float>(),
                                  .partials = scratch.partials.as<float>(),
                                  .dense_partials = scratch.dense_partials.as<float>(),
                                  .first_head = first,
                                  .accumulate = p.accumulate};
  const std::int64_t marks = count * a.T * a.slots, lists = count * N;
  stream.zero(Tensor(index.bitmap, DType::i32, {count, N, words}));
  launch(stream, kBackward, mark_selected_kernel, {.grid = blocks_for(marks, kIndexThreads), .block = kIndexThreads},
         index, a.indices, a.T, a.HK, a.slots, first, marks);
  launch(stream, kBackward, count_selected_kernel,
         {.grid = blocks_for(lists, kIndexThreads / kWarpSize), .block = kIndexThreads}, index, a.block_size, lists);
  launch(stream, kBackward, scan_selected_kernel, {.grid = static_cast<unsigned>(count), .block = kScanThreads}, index);
  launch(stream, kBackward, list_selected_kernel,
         {.grid = blocks_for(lists, kIndexThreads / kWarpSize), .block = kIndexThreads}, index,
         static_cast<std::int64_t>(a.T) * a.slots, a.block_size, lists);
  if (scratch.max_dense > 0)
    launch(stream, kBackward, sparse_group_d_kv_kernel,
           {.grid = dim3(blocks_for(a.T, kGroupTokens), static_cast<unsigned>(count)),
            .block = GroupConfig::kThreads,
            .shared_bytes = GroupConfig::shared_bytes(a.slots, scratch.dense_tokens)},
           out, index, bf16(p.d_out), p.delta.as<float>(), p.lse.as<float>(), a);
  const auto run = [&]<int kTeam>() {
    using C = BlockConfig<kD, kTeam>;
    launch(stream, kBackward, sparse_d_kv_kernel<C>,
           {.grid = dim3(blocks_for(scratch.max_segments, C::kTeams), static_cast<unsigned>(count)),
            .block = C::kThreads,
            .shared_bytes = sizeof(typename C::Shared)},
           out, index, bf16(p.d_out), p.delta.as<float>(), p.lse.as<float>(), a);
  };
  switch (a.block_size / kUnit) {
    case 1: run.template operator()<1>(); break;
    case 2: run.template operator()<2>(); break;
    default: run.template operator()<4>(); break;
  }
  launch(stream, kBackward, sparse_reduce_kernel<kD>,
         {.grid = dim3(static_cast<unsigned>(N), static_cast<unsigned>(count)), .block = kReduceThreads}, out, index,
         a.T, a.HK, a.block_size);
}

}  // namespace

void sparse_attention_forward(Stream& stream, const SparseAttentionForward& p) {
  const SparseArgs a = args_of(p);
  dispatch_head_dim(kForward, p.q.dim(3), a.HQ / a.HK, p.block_size, [&]<int kD>() {
    using C = TokenConfig<kD>;
    const TokenTiles tiles = TokenTiles::make<C>(kForward, a);
    launch(stream, kForward, sparse_forward_kernel<C>, key_stream_launch<C>(stream, tiles, sizeof(ForwardShared<C>)),
           bf16(p.out), p.lse.as<float>(), a, tiles);
  });
}

void sparse_attention_backward(Stream& stream, const SparseAttentionBackward& p) {
  const SparseArgs a = args_of(p);
  const std::int64_t B = p.q.dim(0), D = p.q.dim(3), all = B * a.HK;
  SSA_CHECK(B * a.T * a.HQ <= INT_MAX, kBackward, ": ", B, " rows x ", a.T, " tokens x ", a.HQ,
            " heads, expected at most ", INT_MAX, " in all");
  dispatch_head_dim(kBackward, D, a.HQ / a.HK, p.block_size, [&]<int kD>() {
    using C = TokenConfig<kD>;
    const TokenTiles tiles = TokenTiles::make<C>(kBackward, a);
    launch(stream, kBackward, sparse_d_q_kernel<C>, key_stream_launch<C>(stream, tiles, sizeof(QueryGradientShared<C>)),
           p.d_q.as<float>(), bf16(p.d_out), p.delta.as<float>(), p.lse.as<float>(), a, tiles, p.accumulate);
    BackwardScratch scratch(B, a.T, a.HQ, a.HK, D, a.block_size, a.slots);
    Arena arena(stream.scratch(scratch.bytes), scratch.bytes);
    scratch.lay_out(arena, scratch.heads, a.T, D, a.block_size, a.slots);
    for (std::int64_t first = 0; first < all; first += scratch.heads)
      key_gradients<kD>(stream, p, a, scratch, first, std::min(scratch.heads, all - first));
  });
}

std::size_t sparse_attention_backward_scratch_bytes(std::int64_t B, std::int64_t T, std::int64_t HQ, std::int64_t HK,
                                                    std::int64_t head_dim, std::int64_t block_size,
                                                    std::int64_t slots) {
  return BackwardScratch(B, T, HQ, HK, head_dim, block_size, slots).bytes;
}

}  // namespace ssa::cuda
