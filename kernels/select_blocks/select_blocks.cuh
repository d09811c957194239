// Scores of a token's blocks and the choice of the best, without a matrix in memory. README.md explains the schedule.
#pragma once

#include "kernels/common/mma.cuh"

namespace ssa::cuda {

struct SelectArgs {
  int* indices;
  const __nv_bfloat16 *q, *k_mean;
  int T, N, HQ, HK, slots, block_size, block_counts;
  int list_capacity;  ///< most blocks that a token chooses besides its own
  bool reference;
  float scale;
};

/// kHeads: the group's heads rounded up to 8, 16 or 32, the columns of the products. Each warp keeps the queries of its
/// tokens in registers, so that one read of a block mean serves them all.
template <int kD_, int kHeads_>
struct SelectConfig {
  static constexpr int kD = kD_, kHeads = kHeads_;
  static constexpr int kWarps = 4, kThreads = kWarps * kWarpSize;
  static constexpr int kTokens = 4096 / (kD * kHeads);  ///< a warp: their queries take 64 registers
  static constexpr int kBlockTokens = kWarps * kTokens;
  static constexpr int kTile = kD == 64 ? 64 : 32;  ///< block means read at once
  static constexpr int kChunk = 512;                ///< blocks whose importance is held at once
  static constexpr int kStages = 2;
  static_assert(kTokens >= 1 && kChunk % kTile == 0);

  struct Shared {
    Tile<kTile, kD> means[kStages];
    float importance[kBlockTokens][kChunk];
    int2 length[kBlockTokens];  ///< of the token's list; in reference mode, of its earlier and its newest part
    // Behind it, `list_capacity` each: float list_importance[kBlockTokens][..], int list[kBlockTokens][..].
  };
  static std::size_t shared_bytes(std::size_t list_capacity) {
    return sizeof(Shared) + kBlockTokens * list_capacity * (sizeof(float) + sizeof(int));
  }
};

/// Keeps the best `quota` of a list and of chunk positions [begin, end), in ascending order of index, in the list; one
/// warp. `length` are the list's entries before; returns those after. Importance is not negative, so that as integers
/// it has the same order. Equal importance: the lower index wins.
template <int kChunk>
__device__ __forceinline__ int choose(float* list_importance, int* list, int length, const float* importance,
                                      int first_block, int begin, int end, int quota, int lane) {
  if (end <= begin || quota <= 0) return length;
  int key[kChunk / kWarpSize];
#pragma unroll
  for (int i = 0; i < kChunk / kWarpSize; ++i) {
    const int at = i * kWarpSize + lane;
    key[i] = begin <= at && at < end ? __float_as_int(importance[at]) : -1;
  }
  int threshold = 0, above = 0;  // entries above the threshold are in; of those at it, the first `quota - above`
  if (length + end - begin > quota) {
    const auto count_from = [&](int least) {
      int count = 0;
#pragma unroll
      for (int i = 0; i < kChunk / kWarpSize; ++i) {
        if (i * kWarpSize >= end) break;  // early tokens have few blocks
        count += key[i] >= least;
      }
      for (int at = lane; at < length; at += kWarpSize) count += __float_as_int(list_importance[at]) >= least;
      return __reduce_add_sync(kFullMask, count);
    };
    // The largest threshold that at least `quota` entries reach, bit by bit.
    for (int bit = 30; bit >= 0; --bit) {
      const int candidate = threshold | 1 << bit, count = count_from(candidate);
      if (count >= quota) threshold = candidate;
      if (count == quota) break;
    }
    above = count_from(threshold + 1);
  } else {
    threshold = -1;  // all of them
    above = quota;
  }
  int ties = quota - above, kept = 0;  // room for entries at the threshold; entries written
  const auto keep = [&](int candidate, float value, int index) {
    const bool tie = candidate == threshold && threshold >= 0;
    const unsigned before = (1u << lane) - 1, tie_lanes = __ballot_sync(kFullMask, tie);
    const bool taken = candidate > threshold || (tie && __popc(tie_lanes & before) < ties);
    const unsigned taken_lanes = __ballot_sync(kFullMask, taken);
    if (taken) {
      const int to = kept + __popc(taken_lanes & before);  // never beyond what has been read
      list_importance[to] = value;
      list[to] = index;
    }
    ties -= min(ties, __popc(tie_lanes));
    kept += __popc(taken_lanes);
    __syncwarp();
  };
  for (int first = 0; first < length; first += kWarpSize) {
    const bool there = first + lane < length;
    const float value = there ? list_importance[first + lane] : 0;
    const int index = there ? list[first + lane] : 0;
    __syncwarp();
    keep(there ? __float_as_int(value) : -1, value, index);
  }
#pragma unroll
  for (int i = 0; i < kChunk / kWarpSize; ++i)
    if (begin < (i + 1) * kWarpSize && i * kWarpSize < end)
      keep(key[i], __int_as_float(key[i]), first_block + i * kWarpSize + lane);
  return kept;
}

/// Block (i, kv_head, row) serves the i-th C::kBlockTokens tokens from the end.
template <class C>
__global__ void __launch_bounds__(C::kThreads, 3) select_blocks_kernel(const SelectArgs a) {
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<typename C::Shared*>(shared_bytes);
  auto* list_importance = reinterpret_cast<float*>(shared_bytes + sizeof(typename C::Shared));
  auto* list = reinterpret_cast<int*>(list_importance + C::kBlockTokens * a.list_capacity);
  constexpr int kD = C::kD, kTokens = C::kTokens, kColumns = C::kHeads / 8;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarpSize, lane = thread % kWarpSize;
  const int kv_head = static_cast<int>(blockIdx.y), G = a.HQ / a.HK;
  const std::int64_t row = blockIdx.z;
  const int block_t0 = static_cast<int>(gridDim.x - 1 - blockIdx.x) * C::kBlockTokens;
  const int t0 = block_t0 + warp * kTokens;  // the warp's tokens are t0 .. t0 + kTokens - 1
  const int block_complete =
      (min(a.T, block_t0 + C::kBlockTokens)) / a.block_size;  // complete for the block's last token
  const float scale2 = a.scale * kLog2e;

  // B operands: column = head, k = D.
  std::uint32_t q[kTokens][kD / 16][kColumns][2];
#pragma unroll
  for (int i = 0; i < kTokens; ++i) {
    const __nv_bfloat16* from = a.q + (((row * a.T + min(t0 + i, a.T - 1)) * a.HK + kv_head) * G) * kD;
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
      const int head = n * 8 + (lane >> 2);
      const __nv_bfloat16* column = from + min(head, G - 1) * kD + (lane & 3) * 2;
#pragma unroll
      for (int kk = 0; kk < kD / 16; ++kk)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          q[i][kk][n][half] = head < G ? *reinterpret_cast<const std::uint32_t*>(column + kk * 16 + half * 8) : 0u;
    }
  }

  const std::int64_t mean_stride = static_cast<std::int64_t>(a.HK) * kD;
  const __nv_bfloat16* means = a.k_mean + row * a.N * mean_stride + kv_head * kD;
  const auto load_means = [&](int tile, int stage) {
    load_rows<C::kThreads>(shared.means[stage], means + static_cast<std::int64_t>(tile) * C::kTile * mean_stride,
                           mean_stride, a.N - tile * C::kTile, thread);
  };
  const int tiles = (block_complete + C::kTile - 1) / C::kTile;

  /// Calls visit(token, first block of 16, scores) for all of the warp's tokens and all blocks that are complete for
  /// the last token; chunk_end(first block) after each chunk. Scores: rows are blocks, columns heads.
  const auto over_scores = [&](auto&& visit, auto&& chunk_end) {
    if (tiles > 0) load_means(0, 0);
    copy_async_commit();
    for (int tile = 0; tile < tiles; ++tile) {
      const int stage = tile & 1;
      copy_async_wait<0>();
      __syncthreads();  // this stage is there, and every warp has left the other one
      if (tile + 1 < tiles) load_means(tile + 1, stage ^ 1);
      copy_async_commit();
#pragma unroll 1
      for (int part = 0; part < C::kTile / 16; ++part) {
        std::uint32_t mean[kD / 16][4];
#pragma unroll
        for (int kk = 0; kk < kD / 16; ++kk) load_a(mean[kk], shared.means[stage], part * 16, kk, lane);
#pragma unroll
        for (int i = 0; i < kTokens; ++i) {
          float scores[kColumns][4] = {};
#pragma unroll
          for (int kk = 0; kk < kD / 16; ++kk)
#pragma unroll
            for (int n = 0; n < kColumns; ++n) mma(scores[n], mean[kk], q[i][kk][n][0], q[i][kk][n][1]);
          visit(i, tile * C::kTile + part * 16, scores);
        }
      }
      if ((tile + 1) * C::kTile % C::kChunk == 0 || tile + 1 == tiles)
        chunk_end(tile * C::kTile / C::kChunk * C::kChunk);
    }
    __syncthreads();
  };

  // First pass: each lane's own maximum and sum over its rows, for its two heads of each 8 columns; then over lanes.
  float top[kTokens][kColumns][2], sum[kTokens][kColumns][2];
#pragma unroll
  for (int i = 0; i < kTokens; ++i)
#pragma unroll
    for (int n = 0; n < kColumns; ++n)
#pragma unroll
      for (int c = 0; c < 2; ++c) top[i][n][c] = -1e30f, sum[i][n][c] = 0;
  over_scores(
      [&](int i, int first, float(&scores)[kColumns][4]) {
        const int complete = (t0 + i + 1) / a.block_size, block = first + (lane >> 2);
#pragma unroll
        for (int n = 0; n < kColumns; ++n)
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            const float upper = block < complete ? scores[n][c] * scale2 : -kInfinity;
            const float lower = block + 8 < complete ? scores[n][2 + c] * scale2 : -kInfinity;
            const float both = fmaxf(upper, lower);
            if (both > top[i][n][c]) {  // becomes rare as the maximum settles
              sum[i][n][c] *= exp2_fast(top[i][n][c] - both);
              top[i][n][c] = both;
            }
            sum[i][n][c] += exp2_fast(upper - top[i][n][c]) + exp2_fast(lower - top[i][n][c]);
          }
      },
      [](int) {});
#pragma unroll
  for (int i = 0; i < kTokens; ++i)
#pragma unroll
    for (int n = 0; n < kColumns; ++n)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float best = top[i][n][c];
#pragma unroll
        for (int offset = 4; offset < kWarpSize; offset *= 2)
          best = fmaxf(best, __shfl_xor_sync(kFullMask, best, offset));
        float total = sum[i][n][c] * exp2_fast(top[i][n][c] - best);
#pragma unroll
        for (int offset = 4; offset < kWarpSize; offset *= 2) total += __shfl_xor_sync(kFullMask, total, offset);
        // log2 of the softmax's denominator; heads that the group does not have get no share.
        const bool exists = n * 8 + (lane & 3) * 2 + c < G;
        top[i][n][c] = exists && total > 0 ? best + log2f(total) : kInfinity;
      }

  // Second pass: importance of each block, then the choice, chunk by chunk.
  if (lane < kTokens) shared.length[warp * kTokens + lane] = {0, 0};
  over_scores(
      [&](int i, int first, float(&scores)[kColumns][4]) {
        float upper = 0, lower = 0;
#pragma unroll
        for (int n = 0; n < kColumns; ++n)
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            upper += exp2_fast(scores[n][c] * scale2 - top[i][n][c]);
            lower += exp2_fast(scores[n][2 + c] * scale2 - top[i][n][c]);
          }
        upper = quad_sum(upper);
        lower = quad_sum(lower);
        float* to = shared.importance[warp * kTokens + i] + first % C::kChunk + (lane >> 2);
        if ((lane & 3) == 0) to[0] = upper, to[8] = lower;
      },
      [&](int first) {
        __syncwarp();
#pragma unroll 1
        for (int token = warp * kTokens; token < (warp + 1) * kTokens; ++token) {
          if (block_t0 + token >= a.T) break;
          const int own = (block_t0 + token) / a.block_size;
          const bool split = a.reference && own >= a.block_size && a.block_counts > a.block_size / 2;
          // Reference mode: the newest aligned block_size blocks, which lie in one chunk, are chosen from apart.
          const int newest = split ? own / a.block_size * a.block_size : own;
          float* values = list_importance + token * a.list_capacity;
          int* blocks = list + token * a.list_capacity;
          int2 length = shared.length[token];
          length.x =
              choose<C::kChunk>(values, blocks, length.x, shared.importance[token], first, 0,
                                min(newest - first, C::kChunk), split ? a.block_size / 2 : a.block_counts - 1, lane);
          if (newest >= first && own - first <= C::kChunk)
            length.y = choose<C::kChunk>(values + length.x, blocks + length.x, 0, shared.importance[token], first,
                                         newest - first, own - first, a.block_size / 2 - 1, lane);
          __syncwarp();  // all lanes have read it
          if (lane == 0) shared.length[token] = length;
        }
        __syncwarp();
      });

#pragma unroll 1
  for (int token = warp * kTokens; token < (warp + 1) * kTokens; ++token) {
    const int t = block_t0 + token;
    if (t >= a.T) break;
    const int length = shared.length[token].x + shared.length[token].y;
    int* to = a.indices + ((row * a.T + t) * a.HK + kv_head) * a.slots;
    for (int s = lane; s < a.slots; s += kWarpSize)
      to[s] = s < length ? list[token * a.list_capacity + s] : s == length ? t / a.block_size : -1;
  }
}

}  // namespace ssa::cuda
