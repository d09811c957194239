// Tiles and shared memory of select_blocks on Hopper.
#pragma once

#include <algorithm>

#include "choose_rows.cuh"
#include "kernels/common/ptx/mbarrier.cuh"

namespace ssa::cuda {

/// A team consists of two warpgroups: one computes scores, the other chooses blocks. In the products of a step, the
/// columns are query heads, kHeads for each of kTokens tokens, and the rows are block means. The scoring warpgroup has
/// all scores of a step in registers: the fewer blocks the tokens have, the more columns a step can have. It hands them
/// to the choosing one in slots of kSlotTokens tokens.
/// kHeads: the group's heads rounded up to a power of two, at most kColumns.
/// kDocuments: SelectArgs::begin is given.
/// kColumns: 64, 32 or 16, for tokens with at most 256, 512 or 1024 blocks. The means of 1024 blocks, or of 512 with
/// heads of 128, leave room for one CTA per SM, whose two teams share them.
/// Tiles have 64 columns of a head, so that a head of 128 is two halves.
template <int kD_, int kHeads_, bool kDocuments_, int kColumns_>
struct SelectHopperConfig {
  static constexpr int kD = kD_, kHeads = kHeads_, kColumns = kColumns_;
  static constexpr bool kDocuments = kDocuments_;
  static_assert(kColumns == 64 || kColumns == 32 || kColumns == 16);
  static_assert(kD == 64 || (kColumns == 32 && kHeads >= 8));  ///< else too little shared memory or too few registers
  static constexpr int kHalfD = 64, kHalves = kD / kHalfD;
  static constexpr int kTile = 64, kTiles = 256 / kColumns, kMaxBlocks = kTile * kTiles;
  static constexpr int kTeams = kColumns == 16 || kD == 128 ? 2 : 1, kCtasPerSm = 2 / kTeams;
  static constexpr int kThreads = kTeams * 256;
  static constexpr int kTokens = kColumns / kHeads;  ///< of a step
  static_assert(kTokens >= 1);
  /// There is code for each multiple of kTileStep tiles; the products are waited for in kTiles / kBatchTiles
  /// batches, of which at most 8 can be pending.
  static constexpr int kTileStep = kTiles / 4, kBatchTiles = std::max(1, kTiles / 8);
  /// Fewer: more CTAs, of more equal length at the end, for more loads of means.
  static constexpr int kCtaTokens = kColumns == 16 ? (kHeads <= 4 ? 64 : 32)
                                    : kHeads <= 2  ? 128
                                    : kHeads == 4  ? 64
                                                   : 32;
  static constexpr int kQueryStages = kHeads >= 16 && kD == 64 ? 4 : 2;  ///< steps ahead: steps of few tokens are short
  static constexpr int kWarps = 4;                                       ///< of a warpgroup
  static constexpr int kMaxSlotTokens = kTeams == 2 ? 4 : 8;             ///< as many as fit in shared memory
  static constexpr int kSlotTokens =
      kTokens < kMaxSlotTokens ? kTokens : kMaxSlotTokens;              ///< whose importance is in a slot
  static constexpr int kStepSlots = kTokens / kSlotTokens;              ///< slots that a step fills
  static constexpr int kSlots = kTokens < kMaxSlotTokens ? kWarps : 2;  ///< between scoring and choice
  static constexpr int kSlotWarps = kWarps / kSlots;                    ///< choosing warps of a slot
  static constexpr int kWarpTokens = kSlotTokens / kSlotWarps;          ///< that a choosing warp takes of a slot
  static constexpr bool kRows = kWarpTokens == RowChoice::kRows;        ///< it takes them at once
  static constexpr int kScoringRegisters = (kRows && kColumns <= 32) || (kColumns == 16 && kHeads < 16) ? 168 : 176,
                       kChoosingRegisters = 256 - kScoringRegisters;
  /// The lanes that store importance write to different banks.
  static constexpr int kImportanceStride = kMaxBlocks + (kHeads == 1   ? 4
                                                         : kHeads == 2 ? 8
                                                         : kHeads == 4 ? 16
                                                                       : std::min(16, 32 / kTokens));

  struct Team {
    Tile<kColumns, kHalfD> q[kQueryStages][kHalves];  ///< row = token * kHeads + head
    alignas(16) float importance[kSlots][kSlotTokens][kImportanceStride];
    float sums[2][kWarps][kColumns];                                                  ///< of each scoring warp
    alignas(16) int2 candidates[kWarps][kRows ? RowChoice::kCandidates : kWarpSize];  ///< of each choosing warp
    Barrier q_full[kQueryStages];
    Barrier scored[kSlots], chosen[kSlots];
  };
  /// Dynamic shared memory: this struct, then a list per choosing warp, whose capacity is known at launch.
  struct alignas(1024) Shared {
    Tile<kTile, kHalfD> means[kTiles][kHalves];
    Team team[kTeams];
    Barrier means_full;

    static std::size_t bytes(std::size_t list_capacity) {
      return sizeof(Shared) + kTeams * kWarps * list_capacity * (sizeof(float) + sizeof(int));
    }
    /// The list of choosing warp `warp` of all teams.
    __device__ __forceinline__ BlockList list(int warp, int capacity) {
      auto* importance = reinterpret_cast<float*>(this + 1);
      auto* blocks = reinterpret_cast<int*>(importance + kTeams * kWarps * capacity);
      return {importance + warp * capacity, blocks + warp * capacity, 0};
    }
  };
};

}  // namespace ssa::cuda
