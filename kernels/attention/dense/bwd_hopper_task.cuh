// Arguments of the backward of dense attention on Hopper, and how it is cut into tasks.
#pragma once

#include "kernels/common/ptx/tma.cuh"
#include "mask.cuh"

namespace ssa::cuda {

struct BwdHopperArgs {
  CUtensorMap q, k, v, d_out, d_q;
  float *d_k, *d_v;
  const float* row_values;  ///< [B, HQ, q tiles, 2, kBlockM]: -lse * log2(e), -infinity for a row without keys;
                            ///< -delta * scale. row_value_place() gives the order within a tile.
  int B, T, U, HQ, HK;
  float scale, scale_log2;  ///< and scale * log2(e)
  bool accumulate_q, accumulate_kv;

  int kv_tiles;         ///< of kBlockN keys
  int chunks;           ///< parts into which the heads of a group are cut
  int heads_per_chunk;  ///< ceil(G / chunks)
  // Zero at the start of the kernel:
  int* ticket;      ///< [1] tasks handed out so far
  int* kv_done;     ///< [B, HK, kv_tiles] chunks added to the tile of d_k and d_v
  int* steps_done;  ///< [chunks, B, HK, kv_tiles, kWarpgroups] steps whose part of d_q is in place
};

/// The order of the tasks, of a task's q tiles, and of the sums of d_q. False, for keys that are tokens: from the last
/// kv tile, which has the fewest queries, to the first one, and from the first queries to the last. True, for keys that
/// are block means, whose tasks are few and differ much: from the first kv tile, which has the most queries, to the
/// last one, and from the last queries to the first.
template <class Mask>
inline constexpr bool kLongestTasksFirst = Mask::kBlockMeans;

/// What one CTA does: a tile of kBlockN keys, and some heads of its group. A step is a tile of kBlockM queries of one
/// head; steps take all heads of a q tile before the next one.
template <class C>
struct BwdHopperTask {
  int batch, kv_head, chunk, kv_tile, head_begin, heads;
  int q_tile_start;               ///< the q tile of the first steps
  int before_q_tile_start;        ///< the same for the previous kv tile in the order of the tasks, whose parts of d_q
                                  ///< are added first; with kLongestTasksFirst -1 if there is none
  int steps;                      ///< heads times q tiles
  int query_end[C::kWarpgroups];  ///< with documents: of each warpgroup's first key. The loading warp has no registers
                                  ///< to read it from global memory.

  /// A unit is a (sequence, key/value head, chunk). The tasks of a unit are handed out together: what the running CTAs
  /// share, q, d_out and d_q of a few heads, then stays in L2. With kLongestTasksFirst, a kv tile of all units comes
  /// before the next one, so that all SMs end at about the same time.
  template <class Mask>
  __device__ __forceinline__ void take(const BwdHopperArgs& a, const Mask& masks, int ticket) {
    const int G = a.HQ / a.HK, units = a.B * a.HK * a.chunks;
    const int unit = kLongestTasksFirst<Mask> ? ticket % units : ticket / a.kv_tiles;
    kv_tile = kLongestTasksFirst<Mask> ? ticket / units : a.kv_tiles - 1 - ticket % a.kv_tiles;
    chunk = unit % a.chunks;
    batch = unit / a.chunks / a.HK;
    kv_head = unit / a.chunks % a.HK;
    head_begin = kv_head * G + chunk * a.heads_per_chunk;
    heads = min(G - chunk * a.heads_per_chunk, a.heads_per_chunk);
    const auto& mask = of_sequence(masks, batch);
    int begin, q_tiles;
    if constexpr (kLongestTasksFirst<Mask>) {
      see(a, mask, max(0, kv_tile - 1), &begin, &q_tiles);
      before_q_tile_start = kv_tile == 0 ? -1 : begin + q_tiles - 1;
      see(a, mask, kv_tile, &begin, &q_tiles);
      q_tile_start = begin + q_tiles - 1;
    } else {
      see(a, mask, kv_tile + 1, &before_q_tile_start, &q_tiles);
      see(a, mask, kv_tile, &q_tile_start, &q_tiles);
    }
    steps = q_tiles * heads;
    if constexpr (kIsInDocuments<Mask>)
      for (int i = 0; i < C::kWarpgroups; ++i) query_end[i] = mask.query_end(kv_tile * C::kBlockN + i * kWarpgroupRows);
  }
  template <class Mask>
  static __device__ __forceinline__ int next_q_tile(int q_tile) {
    return kLongestTasksFirst<Mask> ? q_tile - 1 : q_tile + 1;
  }
  /// The parts of a q tile's d_q are added kv tile by kv tile, in the order of the tasks. Returns how many steps the
  /// task of the previous kv tile in this order must have done before this one adds its part for a q tile and the h-th
  /// head, or 0 if this one comes first.
  template <class Mask>
  __device__ __forceinline__ int steps_before(const BwdHopperArgs& a, const Mask& mask, int q_tile, int h) const {
    if constexpr (kLongestTasksFirst<Mask>) {
      return max(0, (before_q_tile_start - q_tile) * heads + h + 1);  // it starts at the last q tile that it visits
    } else {
      const int keys = min(a.U, mask.key_end(min(a.T, (q_tile + 1) * C::kBlockM) - 1));
      return keys <= (kv_tile + 1) * C::kBlockN ? 0 : (q_tile - before_q_tile_start) * heads + h + 1;
    }
  }
  /// Distance in memory from the counter of a kv tile to the counter of the kv tile whose task comes before it.
  template <class Mask>
  static constexpr int kCounterBefore = kLongestTasksFirst<Mask> ? -C::kWarpgroups : C::kWarpgroups;
  /// The counter of one warpgroup's parts.
  __device__ __forceinline__ int* steps_done(const BwdHopperArgs& a, int warpgroup) const {
    const std::int64_t tile =
        ((static_cast<std::int64_t>(chunk) * a.B + batch) * a.HK + kv_head) * a.kv_tiles + kv_tile;
    return a.steps_done + tile * C::kWarpgroups + warpgroup;
  }

 private:
  /// The q tiles that see a kv tile. The first kv tile begins with the first q tile, so that d_q of tokens that see no
  /// key is written too.
  template <class Mask>
  static __device__ __forceinline__ void see(const BwdHopperArgs& a, const Mask& mask, int kv_tile, int* begin,
                                             int* count) {
    const int u_first = kv_tile * C::kBlockN, u_last = min(a.U, u_first + C::kBlockN) - 1;
    const int t_first = kv_tile == 0 ? 0 : kv_tile < a.kv_tiles ? first_query_of_tile(mask, u_first) : a.T;
    *begin = t_first / C::kBlockM;
    *count = t_first >= a.T ? 0 : (min(a.T, mask.query_end(u_last)) - 1) / C::kBlockM + 1 - *begin;
  }
};

}  // namespace ssa::cuda
