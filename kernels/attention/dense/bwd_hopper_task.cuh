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

/// What one CTA does: a tile of kBlockN keys, and some heads of its group. A step is a tile of kBlockM queries of one
/// head; steps start at the first queries that see the keys, and take all heads of a tile before the next one.
template <class C>
struct BwdHopperTask {
  int batch, kv_head, chunk, kv_tile, head_begin, heads;
  int q_tile_begin;               ///< the first of the q tiles that the task visits
  int next_q_tile_begin;          ///< the same for the next kv tile
  int steps;                      ///< heads times q tiles
  int query_end[C::kWarpgroups];  ///< with documents: of each warpgroup's first key. The loading warp has no registers
                                  ///< to read it from global memory.

  /// Tasks of one (sequence, key/value head, chunk) are handed out together, from the last kv tile, which has the
  /// fewest queries, to the first one. What the running CTAs share, q, d_out and d_q of a few heads, then stays in L2.
  template <class Mask>
  __device__ __forceinline__ void take(const BwdHopperArgs& a, const Mask& masks, int ticket) {
    const int unit = ticket / a.kv_tiles, G = a.HQ / a.HK;
    kv_tile = a.kv_tiles - 1 - ticket % a.kv_tiles;
    chunk = unit % a.chunks;
    batch = unit / a.chunks / a.HK;
    kv_head = unit / a.chunks % a.HK;
    head_begin = kv_head * G + chunk * a.heads_per_chunk;
    heads = min(G - chunk * a.heads_per_chunk, a.heads_per_chunk);
    const auto& mask = of_sequence(masks, batch);
    int q_tiles;
    see(a, mask, kv_tile, &q_tile_begin, &q_tiles);
    steps = q_tiles * heads;
    see(a, mask, kv_tile + 1, &next_q_tile_begin, &q_tiles);
    if constexpr (kIsInDocuments<Mask>)
      for (int i = 0; i < C::kWarpgroups; ++i) query_end[i] = mask.query_end(kv_tile * C::kBlockN + i * kWarpgroupRows);
  }
  /// The parts of a q tile's d_q are added from the last kv tile that it sees to the first: how many steps the task of
  /// the next kv tile must have done before this one adds its part for a q tile and the h-th head, or 0 if this one
  /// comes first.
  template <class Mask>
  __device__ __forceinline__ int steps_before(const BwdHopperArgs& a, const Mask& mask, int q_tile, int h) const {
    const int keys = min(a.U, mask.key_end(min(a.T, (q_tile + 1) * C::kBlockM) - 1));
    return keys <= (kv_tile + 1) * C::kBlockN ? 0 : (q_tile - next_q_tile_begin) * heads + h + 1;
  }
  /// The counter of one warpgroup's parts; the one of the next kv tile is kWarpgroups after it.
  __device__ __forceinline__ int* steps_done(const BwdHopperArgs& a, int warpgroup) const {
    const std::int64_t tile =
        ((static_cast<std::int64_t>(chunk) * a.B + batch) * a.HK + kv_head) * a.kv_tiles + kv_tile;
    return a.steps_done + tile * C::kWarpgroups + warpgroup;
  }

 private:
  /// The q tiles that see a kv tile. The first kv tile visits every q tile that no other one comes first for, so that
  /// d_q of tokens that see no key is written too.
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
