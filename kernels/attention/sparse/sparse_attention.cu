#include "sparse_attention.h"

#include <algorithm>

#include "backward_scratch.cuh"
#include "dkv_dense_groups.cuh"
#include "dkv_lists.cuh"
#include "dkv_sum.cuh"
#include "fwd_dq.cuh"
#include "inverse_index.cuh"
#include "kernels/attention/dispatch.cuh"
#include "kernels/common/device/launch.cuh"

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

/// Calls f.operator()<C>() with the TokenConfig for the GPU and the group. Forward and backward have the same one.
template <int kD, class F>
void with_token_config(Stream& stream, const SparseArgs& a, F&& f) {
  const auto with_loads = [&]<bool kTma, bool kSmall>() {
    if (a.group() <= kMaxPackedGroup)
      f.template operator()<TokenConfig<kD, kTma, true, true, kSmall>>();
    else
      f.template operator()<TokenConfig<kD, kTma, false, true, kSmall>>();
  };
  if constexpr (kD == 64) {
    if (has_wgmma(stream)) return with_loads.template operator()<true, false>();
  }
  constexpr std::size_t kLargest = std::max(sizeof(QueryGradientShared<TokenConfig<kD, false, false>>),
                                            sizeof(QueryGradientShared<TokenConfig<kD, false, true>>));
  if (kLargest <= stream.cuda().properties.sharedMemPerBlockOptin)
    with_loads.template operator()<false, false>();
  else
    with_loads.template operator()<false, true>();
}

constexpr auto kForward = "sparse_attention_forward", kBackward = "sparse_attention_backward";

/// `overlaps`: see LaunchShape.
template <int kD>
void query_gradients(Stream& stream, const SparseAttentionBackward& p, const SparseArgs& a, bool overlaps) {
  with_token_config<kD>(stream, a, [&]<class C>() {
    const TokenTiles tiles = TokenTiles::make<C>(kBackward, a);
    LaunchShape shape = key_stream_launch<C>(stream, tiles, sizeof(QueryGradientShared<C>));
    shape.overlaps = overlaps;
    launch(stream, kBackward, sparse_d_q_kernel<C>, shape, p.d_q.as<float>(), bf16(p.d_out), p.delta.as<float>(),
           p.lse.as<float>(), a, KeyMaps::make<C>(kBackward, a), tiles, p.accumulate);
  });
}

/// d_k and d_v of heads [first, first + count); a head is a (batch, key/value head) pair. With the first heads also
/// d_q, which starts in the tail of the dense groups; the lists start in its tail and end evenly. None of these three
/// kernels reads what another writes. The first of them does not overlap: the index is complete for it and for the
/// others.
template <int kD>
void gradients(Stream& stream, const SparseAttentionBackward& p, const SparseArgs& a, const BackwardScratch& scratch,
               std::int64_t first, std::int64_t count) {
  const InverseIndex index = scratch.index(a.T, a.block_size);
  const SparseKeyGradients out = {.d_k = p.d_k.as<float>(),
                                  .d_v = p.d_v.as<float>(),
                                  .partials = scratch.partials.as<float>(),
                                  .dense_partials = scratch.dense_partials.as<float>(),
                                  .first_head = first,
                                  .accumulate = p.accumulate};
  const std::int64_t marks = count * a.T * a.slots, lists = count * index.N;
  stream.zero(scratch.zeros);
  launch(stream, kBackward, mark_selected_kernel, {.grid = ctas_for(marks, kIndexThreads), .block = kIndexThreads},
         index, a.indices, a.T, a.HK, a.slots, first, marks);
  launch(stream, kBackward, list_selected_kernel,
         {.grid = ctas_for(lists, kIndexThreads / kWarpSize), .block = kIndexThreads}, index, a.block_size, lists);
  const bool has_dense = scratch.max_dense > 0, has_d_q = first == 0;
  if (has_dense) {
    using Shared = DenseGroupsConfig::Shared;
    const bool split =
        Shared::bytes(a.slots, scratch.dense_tokens, true) <= stream.cuda().properties.sharedMemPerBlockOptin;
    launch(stream, kBackward, sparse_dkv_dense_groups_kernel,
           {.grid = dim3(ctas_for(a.T, kGroupTokens), static_cast<unsigned>(count)),
            .block = DenseGroupsConfig::kThreads,
            .shared_bytes = Shared::bytes(a.slots, scratch.dense_tokens, split)},
           out, index, bf16(p.d_out), p.delta.as<float>(), p.lse.as<float>(), a, split);
  }
  if (has_d_q) query_gradients<kD>(stream, p, a, has_dense);
  const auto run = [&]<int kTeam>() {
    using C = ListsConfig<kD, kTeam>;
    launch(stream, kBackward, sparse_dkv_lists_kernel<C>,
           {.grid = std::min(ctas_for(count * scratch.max_segments, C::kTeams),
                             static_cast<unsigned>(stream.cuda().properties.multiProcessorCount * C::kCtasPerSm)),
            .block = C::kThreads,
            .shared_bytes = sizeof(typename C::Shared),
            .overlaps = has_dense || has_d_q},
           out, index, bf16(p.d_out), p.delta.as<float>(), p.lse.as<float>(), a, Divisor(a.group()));
  };
  switch (a.block_size / kUnit) {
    case 1: run.template operator()<1>(); break;
    case 2: run.template operator()<2>(); break;
    default: run.template operator()<4>(); break;
  }
  launch(stream, kBackward, sparse_dkv_sum_kernel<kD>,
         {.grid = static_cast<unsigned>(lists), .block = kSumPartsThreads}, out, index, static_cast<int>(count), a.T,
         a.HK, a.block_size);
}

}  // namespace

void sparse_attention_forward(Stream& stream, const SparseAttentionForward& p) {
  const SparseArgs a = args_of(p);
  dispatch_head_dim(kForward, p.q.dim(3), a.HQ / a.HK, p.block_size, [&]<int kD>() {
    with_token_config<kD>(stream, a, [&]<class C>() {
      const TokenTiles tiles = TokenTiles::make<C>(kForward, a);
      launch(stream, kForward, sparse_forward_kernel<C>, key_stream_launch<C>(stream, tiles, sizeof(ForwardShared<C>)),
             bf16(p.out), p.lse.as<float>(), a, KeyMaps::make<C>(kForward, a), tiles);
    });
  });
}

void sparse_attention_backward(Stream& stream, const SparseAttentionBackward& p) {
  const SparseArgs a = args_of(p);
  const std::int64_t B = p.q.dim(0), D = p.q.dim(3), all = B * a.HK;
  SSA_CHECK(B * a.T * a.HQ <= INT_MAX, kBackward, ": ", B, " sequences x ", a.T, " tokens x ", a.HQ,
            " heads, expected at most ", INT_MAX, " in all");
  dispatch_head_dim(kBackward, D, a.HQ / a.HK, p.block_size, [&]<int kD>() {
    BackwardScratch scratch(B, a.T, a.HQ, a.HK, D, a.block_size, a.slots);
    if (DenseGroupsConfig::Shared::bytes(a.slots, scratch.dense_tokens, false) >
        stream.cuda().properties.sharedMemPerBlockOptin)
      scratch.omit_dense_groups();
    Arena arena(stream.scratch(scratch.bytes), scratch.bytes);
    scratch.lay_out(arena, scratch.heads, a.T, D, a.block_size, a.slots);
    for (std::int64_t first = 0; first < all; first += scratch.heads)
      gradients<kD>(stream, p, a, scratch, first, std::min(scratch.heads, all - first));
  });
}

/// At most 640 MiB, or what one sequence and key/value head needs if that is more: the others follow in turn.
std::size_t scratch_bytes(const SparseAttentionBackward& p) {
  return BackwardScratch(p.q.dim(0), p.q.dim(1), p.q.dim(2), p.k.dim(2), p.q.dim(3), p.block_size, p.indices.dim(3))
      .bytes;
}

}  // namespace ssa::cuda
