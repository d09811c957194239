// Arguments of the backward of dense attention on Hopper, and how it is cut into tasks.
#pragma once

#include "kernels/common/ptx/tma.cuh"

namespace ssa::cuda {

struct DenseBackwardHopperArgs {
  CUtensorMap q, k, v, d_out, d_q;
  float *d_k, *d_v;
  const float* row_values;  ///< [B, HQ, query tiles, 2, kStepRows]: -lse / scale, -infinity for a row without keys;
                            ///< -delta. The order within a tile is row_value_place's.
  int B, T, U, HQ, HK;
  float scale;
  bool accumulate_q, accumulate_kv;

  int key_tiles;        ///< of kOwnRows
  int chunks;           ///< parts into which the heads of a group are cut
  int heads_per_chunk;  ///< ceil(G / chunks)
  // Zero at the start of the kernel:
  int* ticket;      ///< [1] tasks handed out so far
  int* keys_done;   ///< [B, HK, key_tiles] chunks added to the tile of d_k and d_v
  int* steps_done;  ///< [chunks, B, HK, key_tiles] steps of a task whose part of d_q is in place
};

/// What one block does: a tile of kOwnRows keys, and some heads of its group. A step is a tile of kStepRows queries of
/// one head; steps go from the last queries down, and at each tile over the heads.
struct DenseBackwardHopperTask {
  static constexpr int kOwnRows = 128, kStepRows = 64;

  int row, kv_head, chunk, key_tile, head_begin, heads;
  int last_tile;        ///< of the query tiles that the task visits
  int steps;            ///< heads times query tiles
  int ahead_last_tile;  ///< the same of the key tile before this one

  /// Tasks of a group of (row, key/value head) pairs are handed out from the first key tile, which has the most
  /// queries, to the last one. The groups are small enough that what their blocks share stays in L2.
  template <class Mask>
  __device__ __forceinline__ void take(const DenseBackwardHopperArgs& a, const Mask& mask, int ticket) {
    constexpr int kGroup = 8;
    const int pairs = a.B * a.HK, per_pair = a.key_tiles * a.chunks, group = ticket / (per_pair * kGroup);
    const int in_group = ticket - group * per_pair * kGroup, members = min(kGroup, pairs - group * kGroup);
    const int pair = group * kGroup + in_group % members, G = a.HQ / a.HK;
    key_tile = in_group / members / a.chunks;
    chunk = in_group / members % a.chunks;
    row = pair / a.HK;
    kv_head = pair % a.HK;
    head_begin = kv_head * G + chunk * a.heads_per_chunk;
    heads = min(G - chunk * a.heads_per_chunk, a.heads_per_chunk);
    // Key tile 0 visits every query tile, so that d_q of tokens that see no key is written too.
    const int first = key_tile == 0 ? 0 : mask.query_begin(key_tile * kOwnRows);
    last_tile = last_tile_of(a, mask, key_tile);
    ahead_last_tile = last_tile_of(a, mask, key_tile - 1);
    steps = first >= a.T ? 0 : (last_tile + 1 - first / kStepRows) * heads;
  }
  /// A query tile's part of d_q comes from the first key tile that it sees first, then from the one after, and so on:
  /// how many steps the task of the key tile before must have done before this one adds its part for a query tile and
  /// the h-th head, or 0 if this one comes first.
  template <class Mask>
  __device__ __forceinline__ int steps_ahead(const Mask& mask, int tile, int h) const {
    const bool comes_first = mask.key_begin(tile * kStepRows) / kOwnRows == key_tile;
    return comes_first ? 0 : (ahead_last_tile - tile) * heads + h + 1;
  }
  /// That of the key tile before stands before it.
  __device__ __forceinline__ int* steps_done(const DenseBackwardHopperArgs& a) const {
    return a.steps_done + ((static_cast<std::int64_t>(chunk) * a.B + row) * a.HK + kv_head) * a.key_tiles + key_tile;
  }

 private:
  template <class Mask>
  static __device__ __forceinline__ int last_tile_of(const DenseBackwardHopperArgs& a, const Mask& mask, int tile) {
    const int u_last = min(a.U, (tile + 1) * kOwnRows) - 1;
    return (min(a.T, mask.query_end(u_last)) - 1) / kStepRows;
  }
};

}  // namespace ssa::cuda
