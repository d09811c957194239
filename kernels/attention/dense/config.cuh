// Tiles, shared memory and arguments of the dense attention kernels (causal, windowed, compressed).
#pragma once

#include <algorithm>
#include <type_traits>

#include "bwd_hopper_task.cuh"
#include "bwd_mma_sync_task.cuh"
#include "kernels/common/ptx/mma.cuh"
#include "kernels/common/ptx/tma.cuh"

namespace ssa::cuda {

/// Named barriers of the Hopper kernels; 0 is the one of __syncthreads.
enum class NamedBarrier : int { kWarpgroup0 = 1, kWarpgroup1, kWarpgroup2, kTurn0, kTurn1, kTurn2, kConsumers };

/// q, out and lse have T tokens of HQ heads, k and v have U keys of HK heads; U = T but for compressed attention.
struct DenseForwardArgs {
  __nv_bfloat16* out;
  float* lse;
  const __nv_bfloat16 *q, *k, *v;
  int T, U, HQ, HK;
  float scale;
};

/// The forward in mma.sync. Each warp owns 32 query rows: with 16, the reads of K and V from shared memory would take
/// twice as long as the products.
template <int kD_, bool kDocuments>
struct FwdMmaSyncConfig {
  static constexpr int kD = kD_;
  static constexpr int kWarps = 4, kThreads = kWarps * kWarpSize;
  static constexpr int kBlockM = 128;
  /// With D = 128 the output takes 128 registers: 64 keys would spill.
  static constexpr int kBlockN = kD == 64 ? 64 : 32;
  static constexpr int kStages = 2;
  static constexpr bool kQueriesInRegisters = kD == 64;
  static constexpr int kMinBlocks = kD == 64 ? 2 : 1;

  struct Tiles {
    Tile<kBlockM, kD> q;
    Tile<kBlockN, kD> k[kStages], v[kStages];
  };
  struct TilesAndKeys : Tiles {
    int2 keys[kBlockM];  ///< of the queries: from the first one to after the last one
  };
  using Shared = std::conditional_t<kDocuments, TilesAndKeys, Tiles>;
};

/// A q tile of a group of heads, and the kv tiles that it sees, which are taken from the last to the first.
struct FwdHopperTask {
  int row, head, t0;
  int tiles, u_last;  ///< 0 tiles: the end; the first key of the last kv tile
  int number;         ///< among the CTA's tasks
  int again;          ///< with a running maximum

  template <class C>
  __device__ __forceinline__ int first_key(int i) const {
    return u_last - i * C::kBlockN;
  }
};

/// The forward on Hopper: kWarpgroups own 64 query rows each. Tiles have 64 columns, so that a head of 128 is two
/// halves.
template <int kD_>
struct FwdHopperConfig {
  static constexpr int kD = kD_, kHalfD = 64, kHalves = kD / kHalfD;
  static constexpr int kWarpgroups = kD == 64 ? 3 : 2, kWarps = 4 * kWarpgroups;  ///< consumers; one more loads
  static constexpr int kThreads = (kWarps + 4) * kWarpSize;
  static constexpr int kRegisters = kD == 64 ? 160 : 240, kProducerRegisters = kD == 64 ? 32 : 24;
  static constexpr int kBlockM = 64 * kWarpgroups, kBlockN = 128;
  static constexpr int kMaxHeads = 16;  ///< that share a q tile
  static constexpr int kL2Parts = 6;    ///< keys and values of the tasks in flight take one part, or one head's size
  static constexpr int kQueryStages = 2, kStages = kD == 64 ? 4 : 2;
  /// Whether keys are loaded a tile ahead of values. With two stages, in order, keys would wait for the stage of the
  /// values before them, which is read for longer.
  static constexpr bool kKeysAhead = kStages == 2;
  /// A task is done again if a row's sum of exponentials is not below this. Far enough from the largest float that sums
  /// of their products with values don't overflow.
  static constexpr float kMaxSum = 0x1p100f;
  static constexpr int kFlagWords = 128;  ///< a bit per task of a CTA; with more tasks, some share a bit
  static constexpr int kRanks = 128;      ///< of tasks that a CTA takes before it looks which of them to do again
  static_assert(kRanks <= 32 * kFlagWords);

  struct Shared {
    alignas(1024) Tile<kBlockM, kHalfD> q[kQueryStages][kHalves];
    Tile<64, kHalfD> out[kWarpgroups][kHalves];
    Tile<kBlockN, kHalfD> k[kStages][kHalves], v[kStages][kHalves];
    Barrier q_full[kQueryStages], q_empty[kQueryStages], k_full[kStages], k_empty[kStages], v_full[kStages],
        v_empty[kStages];
    FwdHopperTask task[kQueryStages];
    unsigned too_large[kFlagWords];
    // With documents:
    Barrier task_full[kQueryStages];
    int2 pieces[kQueryStages];  ///< the first keys of the pieces that a task's first and last token are in
    int key_begin[kBlockM];     ///< of the rows
    int kv_head[kQueryStages];  ///< of the task
    int ranks[kRanks + 1];      ///< of the tasks that the CTA has taken, and of the one that follows them
  };
};

/// The backward in mma.sync. Each warp owns 16 keys and their part of d_k and d_v; the eight warps share the q tile.
/// kSmall: smaller q tiles, for GPUs with 99 KB of shared memory per CTA.
template <int kD_, bool kSmall>
struct BwdMmaSyncConfig {
  static constexpr int kD = kD_;
  static constexpr int kWarps = 8, kThreads = kWarps * kWarpSize;
  static constexpr int kBlockN = 16 * kWarps;
  static constexpr int kBlockM = kD == 64 ? (kSmall ? 64 : 128) : (kSmall ? 16 : 64);
  static constexpr int kQueriesAtOnce = std::min(32, kBlockM);  ///< scores in registers at a time
  static constexpr int kStages = 2;
  static constexpr bool kKeysInRegisters = kD == 64;
  // The product for d_q: warps along the queries, at most four, and along D.
  static constexpr int kRowWarps = std::min(4, kBlockM / 16), kColWarps = kWarps / kRowWarps;
  static constexpr int kWarpRows = kBlockM / kRowWarps, kWarpCols = kD / kColWarps;

  struct Shared {
    Tile<kBlockN, kD> k, v;
    Tile<kBlockM, kD> q[kStages], d_out[kStages];
    Tile<kBlockN, std::max(kBlockM, 64)> d_scores;  ///< the narrowest tile has 64 columns
    alignas(16) float lse[kStages][kBlockM];
    alignas(16) float delta[kStages][kBlockM];
    BwdMmaSyncTask task;
  };
};

/// The backward on Hopper: a task owns kBlockN keys, 64 per warpgroup; a step is kBlockM queries. Tiles have 64
/// columns, so that a head of 128 is two halves, as in the forward.
template <int kD_>
struct BwdHopperConfig {
  static constexpr int kD = kD_, kHalfD = 64, kHalves = kD / kHalfD;
  static constexpr int kWarpgroups = 2, kWarps = 4 * kWarpgroups;  ///< consumers
  static constexpr int kThreads = (kWarps + 4) * kWarpSize;        ///< a fourth of a warpgroup loads, two add to d_q
  static constexpr int kRegisters = 240, kProducerRegisters = 24;  ///< the sum is what the launch gives: 3 x 168
  static constexpr int kBlockM = kD == 64 ? 128 : 64, kBlockN = 128;
  static constexpr int kStages = 2;    ///< of q and d_out
  static constexpr int kDsStages = 2;  ///< of d_s, from its products to its sum for d_q
  static constexpr int kDqStages = 1;  ///< of d_q, from its products to TMA
  /// The order of a step's last products: d_v, d_q, d_k, or d_v, d_k, d_q, which needs fewer registers.
  static constexpr bool kDqBeforeDk = kD == 64;

  struct Shared {
    alignas(1024) Tile<kBlockN, kHalfD> k[kHalves], v[kHalves];
    Tile<kBlockN, kHalfD> k_columns[kHalves];  ///< K after permute_columns()
    Tile<kBlockN, 64> d_s[kDsStages][kBlockM / 64];
    Tile<kBlockM, kHalfD> q[kStages][kHalves], d_out[kStages][kHalves];
    float d_q[kDqStages][kWarpgroups][2][64 * 32];  ///< boxes of 32 columns, swizzled
    alignas(128) float values[kStages][2][kBlockM];
    /// A stage's first query. A bit per warpgroup, whether the mask cuts it, and then one each, whether documents end.
    int t_first[kStages], masked[kStages];
    Barrier kv_full, q_full[kStages], q_empty[kStages];
    Barrier d_s_full[kDsStages], d_s_empty[kDsStages];
    Barrier d_q_full[kDqStages][kWarpgroups], d_q_empty[kDqStages][kWarpgroups];
    BwdHopperTask<BwdHopperConfig> task;
    int query_end[kBlockN];  ///< of the keys, with documents
  };
};

}  // namespace ssa::cuda
