// Scratch of the sparse backward on CUDA.
#pragma once

#include <algorithm>

#include "config.cuh"
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
  Tensor bitmap, token_begin, segment_begin, tokens, segment_block, partials, dense_begin, dense_place, dense_partials;

  BackwardScratch(std::int64_t B, std::int64_t T, std::int64_t HQ, std::int64_t HK, std::int64_t head_dim,
                  std::int64_t block_size, std::int64_t slots) {
    segment_tokens = static_cast<int>(std::max<std::int64_t>(1, kSegmentRows / (HQ / HK)));
    if (head_dim == DenseGroupsConfig::kD && HQ / HK == DenseGroupsConfig::kHeads) {
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

}  // namespace ssa::cuda
