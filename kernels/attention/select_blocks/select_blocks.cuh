// Scores of a token's blocks and the choice of the best, without a matrix in memory. README.md explains the schedule.
#pragma once

#include "kernels/common/ptx/mma.cuh"

namespace ssa::cuda {

struct SelectArgs {
  int* indices;
  const __nv_bfloat16 *q, *k_mean;
  int T, N, HQ, HK, slots, block_size, block_counts;
  int block_shift;    ///< block_size is two to this power: nothing in the loops should divide
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
  static constexpr int kQueryRegisters = kD * kHeads == 4096 ? 64 : 32;  ///< of one token already, or of kTokens
  static constexpr int kMinBlocks = kQueryRegisters == 64 ? 3 : 4;
  static constexpr int kTokens = kQueryRegisters * 64 / (kD * kHeads);  ///< a warp
  static constexpr int kBlockTokens = kWarps * kTokens;
  static constexpr int kTile = kD == 64 ? 64 : 32;  ///< block means read at once
  static constexpr int kChunk = 512;                ///< blocks whose importance is held at once
  static constexpr int kStages = 2;
  static_assert(kTokens >= 1 && kChunk % kTile == 0);

  struct Shared {
    Tile<kTile, kD> means[kStages];
    float importance[kBlockTokens][kChunk];
    int candidates[kWarps][kWarpSize];
    int2 length[kBlockTokens];  ///< of the token's list; in reference mode, of its earlier and its newest part
    // Behind it, `list_capacity` each: float list_importance[kBlockTokens][..], int list[kBlockTokens][..].
  };
  static std::size_t shared_bytes(std::size_t list_capacity) {
    return sizeof(Shared) + kBlockTokens * list_capacity * (sizeof(float) + sizeof(int));
  }
};

/// Sums beyond this may become infinite over the lanes; and the maximum of a lane that has seen no score.
inline constexpr float kLargestSum = 1e37f, kLowest = -1e30f;

/// The lanes' values in descending order.
__device__ __forceinline__ int sort_descending(int value, int lane) {
#pragma unroll
  for (int size = 2; size <= kWarpSize; size *= 2)
#pragma unroll
    for (int distance = size / 2; distance > 0; distance /= 2) {
      const int other = __shfl_xor_sync(kFullMask, value, distance);
      // Runs of `size` lanes become descending and ascending by turns.
      value = ((lane & size) == 0) == ((lane & distance) == 0) ? max(value, other) : min(value, other);
    }
  return value;
}

/// The sum over the lanes before this one.
__device__ __forceinline__ int sum_before(int value, int lane) {
  int sum = value;
#pragma unroll
  for (int offset = 1; offset < kWarpSize; offset *= 2) {
    const int other = __shfl_up_sync(kFullMask, sum, offset);
    if (lane >= offset) sum += other;
  }
  return sum - value;
}

/// Keeps the best `quota` of a list and of chunk positions [begin, end), in ascending order of index, in the list; one
/// warp. `length` are the list's entries before; returns those after. Importance is not negative, so that as integers
/// it has the same order. Equal importance: the lower index wins. `candidates` is the warp's, for passing entries on.
template <int kChunk>
__device__ __forceinline__ int choose(float* list_importance, int* list, int length, const float* importance,
                                      int* candidates, int first_block, int begin, int end, int quota, int lane) {
  if (end <= begin || quota <= 0) return length;
  // A lane takes neighbouring positions, an odd number of them, so that lanes read from different banks.
  constexpr int kKeys = kChunk / kWarpSize + 1;
  const int keys = (end - begin + kWarpSize - 1) / kWarpSize | 1, first = begin + lane * keys;
  int key[kKeys];
#pragma unroll
  for (int i = 0; i < kKeys; ++i) {
    key[i] = -1;
  }
#pragma unroll
  for (int i = 0; i < kKeys; ++i) {
    if (i >= keys) break;
    if (first + i < end) key[i] = __float_as_int(importance[first + i]);
  }
  int threshold = -1, above = quota;  // entries above the threshold are in; of those at it, the first `quota - above`
  if (length + end - begin > quota) {
    const auto own_count_from = [&](int least) {
      int count = 0;
#pragma unroll
      for (int i = 0; i < kKeys; ++i) {
        if (i >= keys) break;
        count += key[i] >= least;
      }
      for (int at = lane; at < length; at += kWarpSize) count += __float_as_int(list_importance[at]) >= least;
      return count;
    };
    const auto count_from = [&](int least) { return __reduce_add_sync(kFullMask, own_count_from(least)); };
    int most = -1;
#pragma unroll
    for (int i = 0; i < kKeys; ++i) {
      if (i >= keys) break;
      most = max(most, key[i]);
    }
    for (int at = lane; at < length; at += kWarpSize) most = max(most, __float_as_int(list_importance[at]));
    most = sort_descending(most, lane);
    // `low` is reached by `reached` entries, at least `quota`; `high` by fewer. The quota-th highest of the lanes'
    // highest is reached by few more than wanted.
    int low = quota <= kWarpSize ? max(0, __shfl_sync(kFullMask, most, quota - 1)) : 0;
    int high = __shfl_sync(kFullMask, most, 0) + 1, reached = count_from(low);
    while (reached > kWarpSize && high - low > 1) {
      const int middle = low + (high - low) / 2, count = count_from(middle);
      if (count >= quota)
        low = middle, reached = count;
      else
        high = middle;
    }
    if (reached <= kWarpSize) {  // one a lane
      int to = sum_before(own_count_from(low), lane);
#pragma unroll
      for (int i = 0; i < kKeys; ++i) {
        if (i >= keys) break;
        if (key[i] >= low) candidates[to++] = key[i];
      }
      for (int at = lane; at < length; at += kWarpSize)
        if (__float_as_int(list_importance[at]) >= low) candidates[to++] = __float_as_int(list_importance[at]);
      __syncwarp();
      const int candidate = lane < reached ? candidates[lane] : -1;
      threshold = __shfl_sync(kFullMask, sort_descending(candidate, lane), quota - 1);
      above = __popc(__ballot_sync(kFullMask, candidate > threshold));
    } else {  // many equal ones
      threshold = low;
      above = count_from(low + 1);
    }
  }
  int ties = quota - above, kept = 0;  // room for entries at the threshold; entries written
  for (int at = 0; at < length; at += kWarpSize) {
    const bool there = at + lane < length;
    const float value = there ? list_importance[at + lane] : 0;
    const int index = there ? list[at + lane] : 0, candidate = there ? __float_as_int(value) : -1;
    const bool tie = there && candidate == threshold;
    const unsigned before = (1u << lane) - 1, tie_lanes = __ballot_sync(kFullMask, tie);
    const bool taken = candidate > threshold || (tie && __popc(tie_lanes & before) < ties);
    const unsigned taken_lanes = __ballot_sync(kFullMask, taken);
    __syncwarp();  // all have read
    if (taken) {
      const int to = kept + __popc(taken_lanes & before);  // never beyond what has been read
      list_importance[to] = value;
      list[to] = index;
    }
    ties -= min(ties, __popc(tie_lanes));
    kept += __popc(taken_lanes);
    __syncwarp();
  }
  int own_above = 0, own_ties = 0;
#pragma unroll
  for (int i = 0; i < kKeys; ++i) {
    if (i >= keys) break;
    own_above += key[i] > threshold;
    own_ties += key[i] == threshold && threshold >= 0;
  }
  const int sums = sum_before(own_above | own_ties << 16, lane), ties_before = min(sums >> 16, ties);
  int to = kept + (sums & 0xffff) + ties_before, room = ties - ties_before;
#pragma unroll
  for (int i = 0; i < kKeys; ++i) {
    if (i >= keys) break;
    const bool tie = key[i] == threshold && threshold >= 0;
    if (key[i] > threshold || (tie && room > 0)) {
      list_importance[to] = __int_as_float(key[i]);
      list[to++] = first_block + first + i;
    }
    room -= tie;
  }
  __syncwarp();
  return __shfl_sync(kFullMask, to, kWarpSize - 1);
}

/// Block (i, kv_head, row) serves the i-th C::kBlockTokens tokens from the end.
template <class C>
__global__ void __launch_bounds__(C::kThreads, C::kMinBlocks) select_blocks_kernel(const SelectArgs a) {
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
      min(a.T, block_t0 + C::kBlockTokens) >> a.block_shift;  // complete for the block's last token
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

  /// Calls visit(token, first block of 16, scores, inner) for all of the warp's tokens and all blocks that are complete
  /// for the last token; chunk_end(first block) after each chunk. Scores: rows are blocks, columns heads. With split,
  /// inner is true where neither the row's first block is among the 16 nor one that is incomplete for some token:
  /// a copy of the code without branches, in which the tokens' products and exponentials overlap.
  using Means = Tile<C::kTile, kD>;
  constexpr int kTogether = kTokens < 4 ? kTokens : 4;
  const auto over_scores = [&](bool split, auto&& visit, auto&& chunk_end) {
    if (tiles > 0) load_means(0, 0);
    cp_async_commit_group();
    for (int tile = 0; tile < tiles; ++tile) {
      const int stage = tile & 1;
      cp_async_wait_group<0>();
      __syncthreads();  // this stage is there, and every warp has left the other one
      if (tile + 1 < tiles) load_means(tile + 1, stage ^ 1);
      cp_async_commit_group();
      const std::uint32_t rows = shared_address(&shared.means[stage]);
      const auto score = [&](int part, bool inner) {
        std::uint32_t mean[kD / 16][4];
#pragma unroll
        for (int kk = 0; kk < kD / 16; ++kk)
          ldmatrix(mean[kk], rows + Means::offset(16, 0) * part + Means::offset(lane & 15, 2 * kk + (lane >> 4)));
#pragma unroll
        for (int i0 = 0; i0 < kTokens; i0 += kTogether) {  // products of several tokens, to have independent ones
          float scores[kTogether][kColumns][4] = {};
#pragma unroll
          for (int kk = 0; kk < kD / 16; ++kk)
#pragma unroll
            for (int i = 0; i < kTogether; ++i)
#pragma unroll
              for (int n = 0; n < kColumns; ++n) mma(scores[i][n], mean[kk], q[i0 + i][kk][n][0], q[i0 + i][kk][n][1]);
#pragma unroll
          for (int i = 0; i < kTogether; ++i) visit(i0 + i, tile * C::kTile + part * 16, scores[i], inner);
        }
      };
      const int parts = min(C::kTile, block_complete - tile * C::kTile + 15) / 16;
#pragma unroll 1
      for (int part = 0; part < parts; ++part) {
        const int first = tile * C::kTile + part * 16;
        if (split && first > 0 && first + 16 <= (t0 + 1) >> a.block_shift)
          score(part, true);
        else
          score(part, false);
      }
      if ((tile + 1) * C::kTile % C::kChunk == 0 || tile + 1 == tiles)
        chunk_end(tile * C::kTile / C::kChunk * C::kChunk);
    }
    __syncthreads();
  };

  // First pass: each lane sums the exponentials of its own rows, for its two heads of each 8 columns; then over lanes.
  // They are relative to the score of the row's first block, which needs no maximum: a sum of f32 is as exact at any
  // size.
  float top[kTokens][kColumns][2], sum[kTokens][kColumns][2];
#pragma unroll
  for (int i = 0; i < kTokens; ++i)
#pragma unroll
    for (int n = 0; n < kColumns; ++n)
#pragma unroll
      for (int c = 0; c < 2; ++c) top[i][n][c] = 0, sum[i][n][c] = 0;
  const auto hide_incomplete = [&](int i, int first, float(&scores)[kColumns][4]) {
    const int complete = (t0 + i + 1) >> a.block_shift, block = first + (lane >> 2);
    if (first + 16 <= complete) return;
#pragma unroll
    for (int n = 0; n < kColumns; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if (block + e / 2 * 8 >= complete) scores[n][e] = -kInfinity;
  };
  over_scores(
      true,
      [&](int i, int first, float(&scores)[kColumns][4], bool inner) {
        if (!inner) {
          hide_incomplete(i, first, scores);
          if (first == 0)
#pragma unroll
            for (int n = 0; n < kColumns; ++n)
#pragma unroll
              for (int c = 0; c < 2; ++c) {
                const float score = __shfl_sync(kFullMask, scores[n][c], lane & 3);
                top[i][n][c] = score == -kInfinity ? 0.0f : __fmul_rn(score, scale2);  // hidden: so are all others
              }
        }
#pragma unroll
        for (int n = 0; n < kColumns; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) sum[i][n][e & 1] += exp2_fast(scores[n][e] * scale2 - top[i][n][e & 1]);
      },
      [](int) {});
  bool overflow = false;
#pragma unroll
  for (int i = 0; i < kTokens; ++i)
#pragma unroll
    for (int n = 0; n < kColumns; ++n)
#pragma unroll
      for (int c = 0; c < 2; ++c) overflow = overflow || !(sum[i][n][c] < kLargestSum);
  if (__syncthreads_or(overflow)) {
    // Scores 80 and more above the first one: again, relative to a running maximum of each lane.
#pragma unroll
    for (int i = 0; i < kTokens; ++i)
#pragma unroll
      for (int n = 0; n < kColumns; ++n)
#pragma unroll
        for (int c = 0; c < 2; ++c) top[i][n][c] = kLowest, sum[i][n][c] = 0;
    over_scores(
        false,
        [&](int i, int first, float(&scores)[kColumns][4], bool) {
          hide_incomplete(i, first, scores);
#pragma unroll
          for (int n = 0; n < kColumns; ++n)
#pragma unroll
            for (int c = 0; c < 2; ++c) {
              const float upper = scores[n][c] * scale2, lower = scores[n][2 + c] * scale2;
              const float raised = fmaxf(top[i][n][c], fmaxf(upper, lower));
              sum[i][n][c] = sum[i][n][c] * exp2_fast(top[i][n][c] - raised) + exp2_fast(upper - raised) +
                             exp2_fast(lower - raised);
              top[i][n][c] = raised;
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
          sum[i][n][c] *= exp2_fast(top[i][n][c] - best);
          top[i][n][c] = best;
        }
  }
#pragma unroll
  for (int i = 0; i < kTokens; ++i)
#pragma unroll
    for (int n = 0; n < kColumns; ++n)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float total = sum[i][n][c];
#pragma unroll
        for (int offset = 4; offset < kWarpSize; offset *= 2) total += __shfl_xor_sync(kFullMask, total, offset);
        // log2 of the softmax's denominator; heads that the group does not have get no share.
        const bool exists = n * 8 + (lane & 3) * 2 + c < G;
        top[i][n][c] = exists && total > 0 ? top[i][n][c] + __log2f(total) : kInfinity;
      }

  // Second pass: importance of each block, then the choice, chunk by chunk.
  if (lane < kTokens) shared.length[warp * kTokens + lane] = {0, 0};
  over_scores(
      false,
      [&](int i, int first, float(&scores)[kColumns][4], bool) {
        float upper = 0, lower = 0;
#pragma unroll
        for (int n = 0; n < kColumns; ++n)
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            upper += exp2_fast(scores[n][c] * scale2 - top[i][n][c]);
            lower += exp2_fast(scores[n][2 + c] * scale2 - top[i][n][c]);
          }
        // Over the quad: even lanes add the upper row, odd ones the lower.
        const bool odd = lane & 1;
        float both = (odd ? lower : upper) + __shfl_xor_sync(kFullMask, odd ? upper : lower, 1);
        both += __shfl_xor_sync(kFullMask, both, 2);
        float* to = shared.importance[warp * kTokens + i] + first % C::kChunk + (lane >> 2);
        if ((lane & 2) == 0) to[odd ? 8 : 0] = fmaxf(both, 0.0f);  // NaN becomes 0
      },
      [&](int first) {
        __syncwarp();
#pragma unroll 1
        for (int token = warp * kTokens; token < (warp + 1) * kTokens; ++token) {
          if (block_t0 + token >= a.T) break;
          const int own = (block_t0 + token) >> a.block_shift;
          const bool split = a.reference && own >= a.block_size && a.block_counts > a.block_size / 2;
          // Reference mode: the newest aligned block_size blocks, which lie in one chunk, are chosen from apart.
          const int newest = split ? own >> a.block_shift << a.block_shift : own;
          float* values = list_importance + token * a.list_capacity;
          int* blocks = list + token * a.list_capacity;
          int2 length = shared.length[token];
          length.x =
              choose<C::kChunk>(values, blocks, length.x, shared.importance[token], shared.candidates[warp], first, 0,
                                min(newest - first, C::kChunk), split ? a.block_size / 2 : a.block_counts - 1, lane);
          if (newest >= first && own - first <= C::kChunk)
            length.y = choose<C::kChunk>(values + length.x, blocks + length.x, 0, shared.importance[token],
                                         shared.candidates[warp], first, newest - first, own - first,
                                         a.block_size / 2 - 1, lane);
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
      to[s] = s < length ? list[token * a.list_capacity + s] : s == length ? t >> a.block_shift : -1;
  }
}

}  // namespace ssa::cuda
