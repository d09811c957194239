// Scratch of the sparse backward on CUDA.
#pragma once

#include <algorithm>

#include "inverse_index.cuh"
#include "ssa/runtime/arena.h"

namespace ssa::cuda {

/// The inverse index and the parts of d_k and d_v, of as many (batch, key/value head) pairs as fit into kWantedBytes,
/// at least one.
struct BackwardScratch {
  static constexpr std::size_t kWantedBytes = std::size_t{640} << 20;
  static constexpr int kSegmentRows = 2048;  ///< (token, head) rows per segment: at least 64 steps of a warp
  static constexpr int kDenseTokens = 16;    ///< of 32: from here on a partial sum is cheaper than reading queries

  std::int64_t heads = 0;
  std::size_t bytes = 0;
  int segment_tokens = 1, max_segments = 0;
  int dense_tokens = kGroupTokens + 1, max_dense = 0;  ///< no dense groups, unless their kernel supports the shape
  int max_word_groups = 0;
  Tensor zeros;  ///< bitmap, dense_count and totals of InverseIndex
  Tensor tokens, segments, dense, parts, partials, dense_partials;

  BackwardScratch(std::int64_t B, std::int64_t T, std::int64_t HQ, std::int64_t HK, std::int64_t head_dim,
                  std::int64_t block_size, std::int64_t slots) {
    segment_tokens = static_cast<int>(std::max<std::int64_t>(1, kSegmentRows / (HQ / HK)));
    if (head_dim == DenseGroupsConfig::kD && HQ / HK == DenseGroupsConfig::kHeads) {
      dense_tokens = kDenseTokens;
      max_dense = static_cast<int>(T * slots / dense_tokens);
      max_word_groups = static_cast<int>(DenseGroupsConfig::Shared::max_entries(slots, dense_tokens));
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

  /// Without dense groups, whose kernel needs more shared memory than the GPU has. Fewer bytes are then used.
  void omit_dense_groups() { dense_tokens = kGroupTokens + 1, max_dense = 0, max_word_groups = 0; }

  /// Of a lay_out with `heads` pairs.
  InverseIndex index(std::int64_t T, std::int64_t block_size) const {
    const std::int64_t N = (T + block_size - 1) / block_size, words = (T + 31) / 32;
    int* const counts = zeros.as<std::int32_t>();
    return {.bitmap = reinterpret_cast<unsigned*>(counts),
            .dense_count = counts + heads * N * words,
            .totals = counts + heads * (N + 1) * words,
            .tokens = tokens.as<std::int32_t>(),
            .segments = reinterpret_cast<ListSegment*>(segments.as<std::int32_t>()),
            .dense = reinterpret_cast<DenseGroup*>(dense.as<std::int32_t>()),
            .parts = reinterpret_cast<BlockParts*>(parts.as<std::int32_t>()),
            .N = static_cast<int>(N),
            .words = static_cast<int>(words),
            .segment_tokens = segment_tokens,
            .dense_tokens = dense_tokens,
            .max_word_groups = max_word_groups};
  }

  void lay_out(Arena& arena, std::int64_t count, std::int64_t T, std::int64_t head_dim, std::int64_t block_size,
               std::int64_t slots) {
    const std::int64_t N = (T + block_size - 1) / block_size, words = (T + 31) / 32;
    zeros = arena.allocate("zeros", DType::i32, {count * (N + 1) * words + InverseIndex::kTotals});
    tokens = arena.allocate("tokens", DType::i32, {count, T, slots});
    segments = arena.allocate("segments", DType::i32, {count, max_segments, sizeof(ListSegment) / 4});
    dense = arena.allocate("dense", DType::i32, {count, words, max_word_groups, sizeof(DenseGroup) / 4});
    parts = arena.allocate("parts", DType::i32, {count, N, sizeof(BlockParts) / 4});
    partials = arena.allocate("partials", DType::f32, {count, max_segments, 2 * block_size, head_dim});
    dense_partials = arena.allocate("dense_partials", DType::f32, {count, max_dense, 2 * block_size, head_dim});
  }
};

}  // namespace ssa::cuda
