// Arguments, tiles, shared memory and barriers of the block-sparse attention kernels.
#pragma once

#include <cstddef>
#include <type_traits>

#include "kernels/common/ptx/mma.cuh"

namespace ssa::cuda {

/// Blocks are read in units of 16 keys, the rows of one mma.
inline constexpr int kUnit = 16;

/// In groups of at most this many query heads, several tokens share the rows of a product.
inline constexpr int kMaxPackedGroup = kUnit / 2;

struct SparseArgs {
  const __nv_bfloat16 *q, *k, *v;  ///< [B, T, HQ, D], [B, T, HK, D]
  const int* indices;              ///< [B, T, HK, slots]
  int B, T, HQ, HK, slots, block_size;
  float scale;

  __host__ __device__ int group() const { return HQ / HK; }
  /// Warps that share the heads of a group, 16 heads each.
  __host__ __device__ int parts() const { return (group() + 15) / 16; }
};

// ---- forward and d_q ----

/// Persistent CTAs, one per SM, take one tile of tokens after another, one warp per token. The ring of keys continues
/// from tile to tile, so warps wait for each other only when they are a whole ring apart. With the two loading warps
/// there are four warps per scheduler (D = 64) or two (D = 128): all registers are in use.
/// kTma: TMA fills the ring (Hopper, heads of 64).
/// kPacked: a warp takes several adjacent tokens, whose heads together fill its rows; for groups of at most
/// kMaxPackedGroup heads.
/// kSmall: for GPUs with 99 KB of shared memory per CTA.
template <int kD_, bool kTma_, bool kPacked_ = false, bool kWithValues_ = true, bool kSmall_ = false>
struct TokenConfig {
  static constexpr int kD = kD_;
  static constexpr bool kTma = kTma_, kPacked = kPacked_, kWithValues = kWithValues_, kSmall = kSmall_;
  static_assert(!kTma || (kD == 64 && kWithValues && !kSmall));
  static constexpr int kTokenWarps = kD == 128 ? 6
                                     : kSmall  ? 10
                                               : 14;  ///< a warp takes one token of a tile, or several
  static constexpr int kPlanner = kTokenWarps, kCopier = kTokenWarps + 1;  ///< the loading warps
  static constexpr int kThreads = (kTokenWarps + 2) * kWarpSize;
  static constexpr int kStageUnits = kTma ? 8 : kD == 64 ? 4 : 2;
  /// Packed: 128 KB of keys and values with TMA, 64 KB without. Otherwise 160 KB or 96 KB. Small: 32 KB, or 48 KB with
  /// heads of 64.
  static constexpr int kStages = kSmall ? (kD == 64 && !kPacked ? 3 : 2) : kPacked ? 4 : kTma ? 5 : 6;
  static constexpr int kListSlots = 32;  ///< longer lists stay in global memory, which is slow
  static constexpr int kPlanUnits = 256;

  /// Units to load for a tile or a part of it, ascending.
  struct TokenPlan {
    alignas(16) int first[kPlanUnits];             ///< first key
    alignas(16) std::uint32_t tokens[kPlanUnits];  ///< the tile's tokens that selected it, a bit each; 0 for padding
    int units;                                     ///< a multiple of kStageUnits
    bool last;                                     ///< the last part of the tile
  };

  /// What the loading warps tell each other and the token warps.
  struct TokenMessages {
    using Plan = TokenPlan;
    std::uint32_t words[kStages][kTokenWarps];  ///< StageWord of each token
    int lists[2][kListSlots][kTokenWarps];      ///< indices of this tile and the next
    TokenPlan plans[2];
  };

  // kPacked: a tile has up to 16 kTokenWarps tokens. Their bits take up to kMaxWords words.
  static constexpr int kMaxWords = kTokenWarps * kUnit / kWarpSize;
  static constexpr int kMaxWindow = kWarpSize * kWarpSize;  ///< blocks
  static constexpr int kWindowWords = 512 * kMaxWords;      ///< at least 512 blocks, more where they have fewer words

  /// Blocks to load for a window of adjacent blocks.
  struct PackedPlan {
    alignas(16) std::uint32_t tokens[kWindowWords];  ///< [block][word]: the tile's tokens that selected it, a bit each
    std::uint32_t present[kWarpSize];                ///< the blocks that any token selected, a bit each
    std::uint16_t blocks[kMaxWindow];                ///< the same blocks as numbers, ascending
    int first_block, units;
    bool last;  ///< the last window of the tile
  };
  /// A stage's units.
  struct PackedStage {
    int first[kStageUnits];                        ///< first key, a multiple of 16; + 1 in the last stage of the tile
    std::uint32_t tokens[kMaxWords][kStageUnits];  ///< the tile's tokens that selected it
  };
  struct PackedMessages {
    using Plan = PackedPlan;
    PackedStage stages[kStages];
    PackedPlan plans[2];
  };
  using Messages = std::conditional_t<kPacked, PackedMessages, TokenMessages>;

  struct alignas(kTma ? 1024 : 128) KeyShared {
    Tile<kUnit, kD> k[kStages][kStageUnits], v[kWithValues ? kStages : 1][kStageUnits];
    std::uint64_t full[kStages], empty[kStages];  ///< mbarriers of the ring
    std::uint64_t plan_full[2], plan_empty[2];    ///< mbarriers of the plans
    Messages messages;
  };
};

template <class C>
struct ForwardShared : C::KeyShared {
  Tile<kUnit, C::kD> q[C::kTokenWarps];
};

template <class C>
struct QueryGradientShared : C::KeyShared {
  Tile<kUnit, C::kD> q[C::kTokenWarps], d_out[C::kTokenWarps];
  float lse[C::kTokenWarps][kUnit], delta[C::kTokenWarps][kUnit];
};

// ---- d_k and d_v ----

/// kTeam warps share the queries of one block of 16 kTeam keys. A query row is a (token, head) pair. Rows are packed
/// without gaps, so that any group size fills the products.
template <int kD_, int kTeam_>
struct ListsConfig {
  static constexpr int kD = kD_, kTeam = kTeam_;
  static constexpr int kWarps = 4, kThreads = kWarps * kWarpSize, kTeams = kWarps / kTeam;
  static constexpr int kRows = kD == 64 ? 32 : 16;  ///< query rows per step
  static constexpr int kStages = 2;
  static constexpr int kBlockSize = kTeam * kUnit;
  /// Limited by registers. With three, code for older GPUs spills.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  static constexpr int kCtasPerSm = 2;
#else
  static constexpr int kCtasPerSm = kD == 64 && kTeam == 1 ? 3 : 2;
#endif

  struct TeamShared {
    Tile<kBlockSize, kD> v;  ///< k stays in registers, which have no room for both
    Tile<kRows, kD> q[kStages], d_out[kStages];
    alignas(16) float lse[kStages][kRows];
    alignas(16) float delta[kStages][kRows];
    alignas(16) int token[kStages][kRows];
  };
  struct Shared {
    TeamShared team[kTeams];
  };
};

/// Named barriers of the lists kernel; 0 is __syncthreads.
enum NamedBarrier : int { kTeamBarrier = 1 };  ///< of team 0; team i has kTeamBarrier + i

/// Tokens of a dense group: the bits of a word of the inverse index.
inline constexpr int kGroupTokens = 32;

/// For groups of 16 heads of size 64, so that the rows of one token are the rows of one product.
struct DenseGroupsConfig {
  static constexpr int kD = 64, kHeads = 16;
  static constexpr int kWarps = 12, kThreads = kWarps * kWarpSize;
  static constexpr int kRows = kGroupTokens * kHeads;
  /// Warps begin when the queries of the first chunk of tokens have arrived.
  static constexpr int kChunks = 4, kChunkTokens = kGroupTokens / kChunks;
  static constexpr unsigned kChunkMask = (1u << kChunkTokens) - 1;

  /// A block that many of the CTA's tokens selected.
  struct alignas(16) Entry {
    int block, part;   ///< part: index of its partial sum
    unsigned tokens;   ///< a bit each
    int pairs_before;  ///< (token, unit of 16 keys) pairs of the entries before this one
  };
  /// Sums of a warp over the last tokens of a unit, whose first tokens an earlier warp has.
  struct Piece {
    float4 sums[2 * kD / 8][kWarpSize];
  };
  /// Dynamic shared memory: this struct; a piece for each warp but the first, if units are split; the entries, whose
  /// largest number is known at launch.
  struct Shared {
    Tile<kRows, kD> q, d_out;
    alignas(16) float lse[kRows];
    alignas(16) float delta[kRows];
    alignas(16) std::uint64_t loaded[kChunks];  ///< mbarriers: the queries of a chunk have arrived
    std::uint64_t ready[kWarps];                ///< mbarriers: the warp has written its piece

    __device__ __forceinline__ Piece& piece(int warp) { return reinterpret_cast<Piece*>(this + 1)[warp - 1]; }
    __device__ __forceinline__ Entry* entries(bool split) {
      return reinterpret_cast<Entry*>(reinterpret_cast<Piece*>(this + 1) + (split ? kWarps - 1 : 0));
    }
    /// 32 tokens with `slots` blocks each have at most this many blocks that `dense_tokens` of them selected.
    static std::int64_t max_entries(std::int64_t slots, int dense_tokens) {
      return kGroupTokens * slots / dense_tokens;
    }
    static std::size_t bytes(std::int64_t slots, int dense_tokens, bool split) {
      return sizeof(Shared) + (split ? kWarps - 1 : 0) * sizeof(Piece) +
             static_cast<std::size_t>(max_entries(slots, dense_tokens)) * sizeof(Entry);
    }
  };
};

inline constexpr int kIndexThreads = 256;
inline constexpr int kSumPartsThreads = 512;
inline constexpr int kSumPartsLoads = 8;  ///< parts that a thread reads at once; the first block may have hundreds

}  // namespace ssa::cuda
