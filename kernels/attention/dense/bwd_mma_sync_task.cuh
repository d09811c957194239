// Arguments of the backward of dense attention, and how it is cut into tasks.
#pragma once

#include "kernels/common/ptx/mma.cuh"

namespace ssa::cuda {

struct DenseBackwardArgs {
  float *d_q, *d_k, *d_v;
  const __nv_bfloat16* d_out;
  const float *delta, *lse;
  const __nv_bfloat16 *q, *k, *v;
  int B, T, U, HQ, HK;
  float scale;
  bool accumulate_q, accumulate_kv;

  int chunks = 1;           ///< parts into which the heads of a group are cut
  int heads_per_chunk = 0;  ///< ceil(G / chunks)
  int kv_tiles = 0;
  // All zero at the start of the kernel:
  int* ticket = nullptr;      ///< [1] tasks handed out so far
  int* steps_done = nullptr;  ///< [chunks, B, HK, kv_tiles] steps of a task whose part of d_q is in place
  int* kv_done = nullptr;     ///< [B, HK, kv_tiles] chunks added to the tile of d_k and d_v
};

/// The work of one CTA: a kv tile, and some heads of its group.
struct BwdMmaSyncTask {
  int kv_tile, chunk, row_head, row, kv_head, head_begin, heads;
  int u0;                        ///< the tile's first key
  int tile_begin, tiles;         ///< q tiles that attend to the kv tile
  int ahead_begin, ahead_tiles;  ///< the same of the next kv tile

  /// Takes the next task for the whole CTA; `this` is in shared memory, because registers are scarce. A task only
  /// waits for tasks with earlier tickets.
  template <class C, class Mask>
  __device__ __forceinline__ void take(const DenseBackwardArgs& a, const Mask& masks) {
    if (threadIdx.x == 0) assign<C>(a, masks, atomicAdd(a.ticket, 1));
    __syncthreads();
  }

  /// Index of (sequence, key or token, head), in vectors of D.
  __device__ __forceinline__ std::int64_t key_position(const DenseBackwardArgs& a, int u) const {
    return (static_cast<std::int64_t>(row) * a.U + u) * a.HK + kv_head;
  }
  __device__ __forceinline__ std::int64_t query_position(const DenseBackwardArgs& a, int t, int of_head) const {
    return (static_cast<std::int64_t>(row) * a.T + t) * a.HQ + of_head;
  }

  /// Steps go over the q tiles, and at each over the heads: a task that follows another then lags by as many
  /// steps as there are heads.
  struct Step {
    int i = 0, h = 0;  ///< q tile and head, counted from the task's first
  };
  __device__ __forceinline__ int steps() const { return heads * tiles; }
  __device__ __forceinline__ Step after(Step step) const {
    return step.h + 1 < heads ? Step{step.i, step.h + 1} : Step{step.i + 1, 0};
  }
  __device__ __forceinline__ int head(Step step) const { return head_begin + step.h; }
  __device__ __forceinline__ int q_tile(Step step) const { return tile_begin + step.i; }

  /// The parts of a q tile's d_q are added in descending order of the kv tiles. Returns how many steps the task of the
  /// next kv tile must have done before this task adds, or 0 if this task is the first to add.
  __device__ __forceinline__ int steps_ahead(Step step) const {
    const int i = q_tile(step) - ahead_begin;
    return ahead_tiles > 0 && i >= 0 ? i * heads + step.h + 1 : 0;
  }
  /// The task's own counter of steps; the one of the next kv tile follows it.
  __device__ __forceinline__ int* steps_done(const DenseBackwardArgs& a) const {
    return a.steps_done + (static_cast<std::int64_t>(chunk) * a.B * a.HK + row_head) * a.kv_tiles + kv_tile;
  }

 private:
  template <class C, class Mask>
  __device__ __forceinline__ void assign(const DenseBackwardArgs& a, const Mask& masks, int ticket) {
    // Groups of (sequence, key/value head) pairs take turns at each kv tile, from the last kv tile to the first. So a q
    // tile receives its own keys' part of d_q first, and a task follows one that started earlier and has fewer q tiles.
    // The groups are small enough for L2, and large enough that few CTAs of a wave wait for each other.
    constexpr int kGroup = 8;
    const int pairs = a.B * a.HK, in_chunk = ticket % (a.kv_tiles * pairs);
    const int group = in_chunk / (a.kv_tiles * kGroup), members = min(kGroup, pairs - group * kGroup);
    const int in_group = in_chunk - group * a.kv_tiles * kGroup, G = a.HQ / a.HK;
    chunk = ticket / (a.kv_tiles * pairs);
    kv_tile = a.kv_tiles - 1 - in_group / members;
    row_head = group * kGroup + in_group % members;
    row = row_head / a.HK;
    kv_head = row_head % a.HK;
    head_begin = kv_head * G + chunk * a.heads_per_chunk;
    heads = min(G - chunk * a.heads_per_chunk, a.heads_per_chunk);

    u0 = kv_tile * C::kBlockN;
    const auto& mask = of_sequence(masks, row);
    const auto see = [&](int tile, int* begin, int* count) {
      const int first_key = tile * C::kBlockN, last_key = min(a.U, first_key + C::kBlockN) - 1;
      // kv tile 0 visits every q tile, so that d_q of tokens without a visible key is written too.
      const int first = tile == 0 ? 0 : tile < a.kv_tiles ? first_query_of_tile(mask, first_key) : a.T;
      *begin = first / C::kBlockM;
      *count = first >= a.T ? 0 : (min(a.T, mask.query_end(last_key)) - 1) / C::kBlockM + 1 - *begin;
    };
    see(kv_tile, &tile_begin, &tiles);
    see(kv_tile + 1, &ahead_begin, &ahead_tiles);
  }
};

}  // namespace ssa::cuda
