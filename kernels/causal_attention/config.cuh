// Tiles, shared memory and arguments of the dense attention kernels (causal, windowed, compressed).
#pragma once

#include "kernels/causal_attention/backward_task.cuh"
#include "kernels/common/mma.cuh"

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

/// The same for wgmma (D = 64 on sm_90a): three warpgroups own 64 query rows each and walk over halves of a key tile.
struct DenseForwardHopperConfig {
  static constexpr int kD = 64;
  static constexpr int kWarps = 12, kThreads = kWarps * kWarpSize;
  static constexpr int kLoaders = 256;  ///< threads that copy keys and values: their rows divide a tile
  static constexpr int kQueries = 16 * kWarps, kKeys = 128, kKeysAtOnce = 64;
  static constexpr int kStages = 3;  ///< scores of the next tile start while the values of this one are read

  struct Shared {
    alignas(1024) Tile<kQueries, kD> q;
    Tile<kKeys, kD> k[kStages], v[kStages];
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

/// The same for wgmma (D = 64 on sm_90a): two warpgroups own 64 keys each. Tiles have 64 columns and lie at 1024-byte
/// boundaries, as wgmma's 128-byte swizzle wants them.
struct DenseBackwardHopperConfig {
  static constexpr int kD = 64;
  static constexpr int kWarps = 8, kThreads = kWarps * kWarpSize;
  static constexpr int kKeys = 16 * kWarps, kQueries = 128;
  static constexpr int kQueriesAtOnce = 64;  ///< scores held in registers
  static constexpr int kParts = kQueries / kQueriesAtOnce;
  static constexpr int kStages = 2;

  struct Shared {
    alignas(1024) Tile<kKeys, kD> k, v;
    Tile<kQueries, kD> q[kStages], d_out[kStages];
    Tile<kKeys, kQueriesAtOnce> d_scores[kStages][kParts];  ///< transposed: keys are the rows
    alignas(16) float lse[kStages][kQueries];
    alignas(16) float delta[kStages][kQueries];
    BackwardTask task;
  };
};

}  // namespace ssa::cuda
