// Tiles, shared memory and arguments of the dense attention kernels (causal, windowed, compressed).
#pragma once

#include "backward_task.cuh"
#include "backward_task_hopper.cuh"
#include "kernels/common/ptx/mma.cuh"
#include "kernels/common/ptx/tma.cuh"

namespace ssa::cuda {

/// q, out and lse have T tokens of HQ heads, k and v have U keys of HK heads; U = T but for compressed attention.
struct DenseForwardArgs {
  __nv_bfloat16* out;
  float* lse;
  const __nv_bfloat16 *q, *k, *v;
  int T, U, HQ, HK;
  float scale;
};

/// Each warp owns 32 query rows: with 16, the reads of K and V from shared memory would take twice as long as the
/// products.
template <int kD_>
struct DenseForwardConfig {
  static constexpr int kD = kD_;
  static constexpr int kWarps = 4, kThreads = kWarps * kWarpSize;
  static constexpr int kQueries = 128;
  static constexpr int kKeys =
      kD == 64 ? 64 : 32;  ///< with D = 128 the output takes 128 registers, and 64 keys would spill
  static constexpr int kStages = 2;
  static constexpr bool kQueriesInRegisters = kD == 64;
  static constexpr int kMinBlocks = kD == 64 ? 2 : 1;

  struct Shared {
    Tile<kQueries, kD> q;
    Tile<kKeys, kD> k[kStages], v[kStages];
  };
};

/// The same on Hopper: kWarpgroups own 64 query rows each. With kPingPong they start their products in turn. Tiles
/// have 64 columns, so that a head of 128 is two halves, which the copies take for heads.
template <int kD_, bool kPingPong_>
struct DenseForwardHopperConfig {
  static constexpr int kD = kD_, kHalfD = 64, kHalves = kD / kHalfD;
  static constexpr int kWarpgroups = kD == 64 ? 3 : 2, kWarps = 4 * kWarpgroups;  ///< that compute; one more copies
  static constexpr int kThreads = (kWarps + 4) * kWarpSize;
  static constexpr int kRegisters = kD == 64 ? 160 : 240, kCopyRegisters = kD == 64 ? 32 : 24;
  static constexpr int kQueries = 64 * kWarpgroups, kKeys = 128;
  static constexpr int kQueryStages = 2, kStages = kD == 64 ? 4 : 2;
  static constexpr bool kPingPong = kPingPong_;
  /// Whether keys are copied a tile ahead of values. With two stages a copy of keys would else wait behind one of
  /// values whose stage is still read.
  static constexpr bool kKeysAhead = kStages == 2;

  struct Shared {
    alignas(1024) Tile<kQueries, kHalfD> q[kQueryStages][kHalves];
    Tile<64, kHalfD> out[kWarpgroups][kHalves];
    Tile<kKeys, kHalfD> k[kStages][kHalves], v[kStages][kHalves];
    Barrier q_full[kQueryStages], q_empty[kQueryStages], k_full[kStages], k_empty[kStages], v_full[kStages],
        v_empty[kStages];
  };
};

/// Each warp owns 16 keys and their part of d_k and d_v; the eight warps share the query tile.
template <int kD_>
struct DenseBackwardConfig {
  static constexpr int kD = kD_;
  static constexpr int kWarps = 8, kThreads = kWarps * kWarpSize;
  static constexpr int kKeys = 16 * kWarps;
  static constexpr int kQueries = kD == 64 ? 128 : 64;
  static constexpr int kQueriesAtOnce = 32;  ///< scores held in registers
  static constexpr int kStages = 2;
  static constexpr bool kKeysInRegisters = kD == 64;
  // The product for d_q: four warps along the queries, two along D.
  static constexpr int kRowWarps = 4, kColWarps = kWarps / kRowWarps;
  static constexpr int kWarpRows = kQueries / kRowWarps, kWarpCols = kD / kColWarps;

  struct Shared {
    Tile<kKeys, kD> k, v;
    Tile<kQueries, kD> q[kStages], d_out[kStages];
    Tile<kKeys, kQueries> d_scores;
    alignas(16) float lse[kStages][kQueries];
    alignas(16) float delta[kStages][kQueries];
    BackwardTask task;
  };
};

/// The same on Hopper: a task owns kOwnRows keys, 64 a warpgroup, and goes through tiles of kStepRows queries. Tiles
/// have 64 columns, so that a head of 128 is two halves, as in the forward.
template <int kD_>
struct DenseBackwardHopperConfig {
  static constexpr int kD = kD_, kHalfD = 64, kHalves = kD / kHalfD;
  static constexpr int kWarpgroups = 2, kWarps = 4 * kWarpgroups;  ///< that compute; one more copies
  static constexpr int kThreads = (kWarps + 4) * kWarpSize;
  static constexpr int kRegisters = 240, kCopyRegisters = 24;  ///< the sum is what the launch gives: 3 x 168
  static constexpr int kOwnRows = DenseBackwardHopperTask::kOwnRows, kStepRows = DenseBackwardHopperTask::kStepRows;
  static_assert(kOwnRows == 64 * kWarpgroups && kStepRows == 64);
  static constexpr int kStages = kD == 64 ? 4 : 2;  ///< of tiles of queries
  static constexpr int kScoreStages = kStages;      ///< of d_s, from its products to its sum for d_q
  static constexpr int kSumStages = kStages;        ///< of d_q, from its sum to its place
  /// The warps that sum one step's d_q: with D = 64 the warpgroups take steps in turn, else each has half of D.
  static constexpr int kSumWarps = 4 * kHalves;
  /// Whether a stage of d_q is left once it is read, instead of when its sum is in place, a step later.
  static constexpr bool kLeaveSumsEarly = kSumStages == 2;

  struct Shared {
    alignas(1024) Tile<kOwnRows, kHalfD> own[2 * kHalves];  ///< k, then v
    Tile<kOwnRows, kStepRows> d_s[kScoreStages];
    Tile<kStepRows, kHalfD> passing[kStages][2 * kHalves];  ///< q, then d_out
    float d_q[kSumStages][kD / 32][kStepRows * 32];         ///< boxes of 32 columns, swizzled
    alignas(128) float values[kStages][2 * kStepRows];
    Barrier own_full, full[kStages], empty[kStages];
    Barrier d_s_full[kScoreStages], d_s_empty[kScoreStages], d_q_full[kSumStages], d_q_empty[kSumStages];
    DenseBackwardHopperTask task;
  };
};

}  // namespace ssa::cuda
