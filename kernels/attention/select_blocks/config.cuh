// Arguments, tiles and shared memory of the select_blocks kernel.
#pragma once

#include <algorithm>
#include <bit>

#include "kernels/common/device/launch.cuh"
#include "kernels/common/ptx/mma.cuh"
#include "select_blocks.h"

namespace ssa::cuda {

struct SelectArgs {
  int* indices;                     ///< [B, T, HK, slots]
  const __nv_bfloat16 *q, *k_mean;  ///< [B, T, HQ, D], [B, N, HK, D]
  int B, T, N, HQ, HK, slots, block_size, block_counts;
  int block_shift;    ///< log2 of block_size: the loops must not divide
  int list_capacity;  ///< most blocks that a token can choose besides its own
  bool reference;     ///< BlockSelection::reference
  float scale;
  const int* begin;  ///< [B, T]: DocumentBounds::begin; null without documents
  int t_begin = 0;   ///< the kernel of two passes chooses for the tokens from here on

  /// The first block of the document piece of a token.
  __device__ __forceinline__ int first_block(std::int64_t b, int t) const {
    return __ldg(begin + b * T + t) >> block_shift;
  }
};

inline SelectArgs select_args(const SelectBlocks& p) {
  const std::int64_t N = p.k_mean.dim(1), slots = p.indices.dim(3);
  return {.indices = p.indices.as<std::int32_t>(),
          .q = bf16(p.q),
          .k_mean = bf16(p.k_mean),
          .B = static_cast<int>(p.q.dim(0)),
          .T = static_cast<int>(p.q.dim(1)),
          .N = static_cast<int>(N),
          .HQ = static_cast<int>(p.q.dim(2)),
          .HK = static_cast<int>(p.k_mean.dim(2)),
          .slots = static_cast<int>(slots),
          .block_size = static_cast<int>(p.block_size),
          .block_counts = static_cast<int>(p.block_counts),
          .block_shift = std::countr_zero(static_cast<unsigned>(p.block_size)),
          .list_capacity = static_cast<int>(std::min(slots, N)),
          .reference = p.mode == BlockSelection::reference,
          .scale = p.scale,
          .begin = p.documents.begin.as_or_null<std::int32_t>()};
}

/// The blocks chosen so far for one token, in ascending order, with their importance. In shared memory.
struct BlockList {
  float* importance;
  int* blocks;
  int length;
};

/// kHeads: the group's heads rounded up to 8, 16 or 32, the columns of the products. Each warp keeps the queries of its
/// tokens in registers, so that a block mean is read from shared memory once for all of them.
/// kDocuments: SelectArgs::begin is given.
template <int kD_, int kHeads_, bool kDocuments_>
struct SelectConfig {
  static constexpr int kD = kD_, kHeads = kHeads_;
  static constexpr bool kDocuments = kDocuments_;
  static constexpr int kWarps = 4, kThreads = kWarps * kWarpSize;
  static constexpr int kQueryRegisters = kD * kHeads == 4096 ? 64 : 32;  ///< 64: what a single token needs
  static constexpr int kCtasPerSm = kQueryRegisters == 64 ? 3 : 4;
  static constexpr int kTokens = kQueryRegisters * 64 / (kD * kHeads);  ///< per warp
  static constexpr int kCtaTokens = kWarps * kTokens;
  static_assert(16 % kCtaTokens == 0);              // of one document piece, which begins at a multiple of 16 tokens
  static constexpr int kColumns = kHeads / 8;       ///< accumulators of 16 blocks x 8 heads
  static constexpr int kTile = kD == 64 ? 64 : 32;  ///< block means per stage
  static constexpr int kChunk = 512;                ///< blocks whose importance is in shared memory at a time
  static constexpr int kStages = 2;
  static_assert(kTokens >= 1 && kChunk % kTile == 0);

  /// Dynamic shared memory: this struct, then the lists, whose capacity is known at launch.
  struct Shared {
    Tile<kTile, kD> means[kStages];
    float importance[kCtaTokens][kChunk];
    int candidates[kWarps][kWarpSize];
    /// Lengths of the token's lists: x of the blocks before the newest chunk of the reference mode, y of those in it.
    int2 length[kCtaTokens];

    static std::size_t bytes(std::size_t list_capacity) {
      return sizeof(Shared) + kCtaTokens * list_capacity * (sizeof(float) + sizeof(int));
    }
    /// The list of a token, as empty.
    __device__ __forceinline__ BlockList list(int token, int capacity) {
      auto* importance = reinterpret_cast<float*>(this + 1);
      auto* blocks = reinterpret_cast<int*>(importance + kCtaTokens * capacity);
      return {importance + token * capacity, blocks + token * capacity, 0};
    }
  };
};

}  // namespace ssa::cuda
