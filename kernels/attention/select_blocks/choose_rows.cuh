// Choice of the most important blocks of four tokens at once by one warp.
#pragma once

#include "top_k.cuh"

namespace ssa::cuda {

/// A warp's four rows of importance, 8 lanes for each.
struct RowChoice {
  static constexpr int kRows = 4, kLanes = kWarpSize / kRows;
  static constexpr int kMost = 32;                    ///< candidates of a row, 4 per lane
  static constexpr int kCandidateStride = kMost + 2;  ///< rows begin in different banks
  static constexpr int kCandidates = kRows * kCandidateStride;

  /// What a lane's row chooses from and where to: the `quota` most important of `size` positions from `begin` on, a
  /// multiple of 4; in ascending order, the block of position `begin` being `first`.
  struct Row {
    int* to;
    int begin, size, quota, first;

    /// How many are chosen.
    __device__ __forceinline__ int length() const { return max(0, min(size, quota)); }
  };

  const float* importance;  ///< shared memory, of the first row; aligned to 16 bytes
  int stride;               ///< between rows, a multiple of 4
  int2* candidates;         ///< kCandidates, of this warp; aligned to 16 bytes
  int lane;

  /// Returns whether the row is done: if not, it has many candidates or more equal ones at the threshold than wanted.
  /// Equal importance: the lower position wins. kChunk: the most positions of a row.
  template <int kChunk>
  __device__ __forceinline__ bool choose(const Row& row) const {
    const int length = row.length();
    const bool some = length < row.size && length > 0, few = some && row.quota <= kMost;
    if (!some)
      for (int at = lane % kLanes; at < length; at += kLanes) row.to[at] = row.first + at;
    if (!__any_sync(kFullMask, few)) return !some;
    const bool done = choose_few<kChunk>(row, few ? row.size : 0, few ? row.quota : 1);
    return done || !some;
  }

 private:
  /// 32 values of each row in descending order (bitonic sort): lane l of the row gets the values from 4 l on.
  __device__ __forceinline__ void sort_descending(int (&value)[4]) const {
    const auto exchange = [](int& higher, int& lower) {
      const int a = higher, b = lower;
      higher = max(a, b), lower = min(a, b);
    };
    const int at = lane % kLanes * 4;
    exchange(value[0], value[1]), exchange(value[3], value[2]);
    // Runs of `size` values alternate between descending and ascending. In the latter, the values are complemented,
    // which reverses their order.
    int complement = 0;
#pragma unroll
    for (int size = 4; size <= kMost; size *= 2) {
      const int before = complement;
      complement = size < kMost && (at & size) ? -1 : 0;
#pragma unroll
      for (int j = 0; j < 4; ++j) value[j] ^= before ^ complement;
#pragma unroll
      for (int distance = size / 2; distance >= 4; distance /= 2) {
        const bool high = (at & distance) == 0;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int other = __shfl_xor_sync(kFullMask, value[j], distance / 4);
          value[j] = high ? max(value[j], other) : min(value[j], other);
        }
      }
      exchange(value[0], value[2]), exchange(value[1], value[3]);
      exchange(value[0], value[1]), exchange(value[2], value[3]);
    }
  }

  /// The row's index-th value of that order; index is the same in all lanes of the row.
  __device__ __forceinline__ int value_at(const int (&value)[4], int index) const {
    const int even = index & 2 ? value[2] : value[0], odd = index & 2 ? value[3] : value[1];
    return __shfl_sync(kFullMask, index & 1 ? odd : even, lane / kLanes * kLanes + index / 4);
  }

  /// Sum over this lane and the row's lanes before it.
  __device__ __forceinline__ int inclusive_sum(int value) const {
#pragma unroll
    for (int distance = 1; distance < kLanes; distance *= 2) {
      const int other = __shfl_up_sync(kFullMask, value, distance, kLanes);
      if (lane % kLanes >= distance) value += other;
    }
    return value;
  }

  /// Chooses `quota` of `size` positions, of more than `quota` or of none; 1 <= quota <= kMost. All lanes of the warp.
  /// Returns whether the row is done: its candidates are few and those at the threshold are all wanted.
  template <int kChunk>
  __device__ __forceinline__ bool choose_few(const Row& row, int size, int quota) const {
    static_assert(kChunk % 128 == 0 && kChunk <= 1024);  // quads are bits
    constexpr int kQuads = kChunk / 32;                  // of a lane: four adjacent positions from 4 l on, in each 32
    constexpr int kBatch = 2;                            // loads at a time: no registers are left for more
    const int row_lane = lane % kLanes;
    const auto* quads = reinterpret_cast<const int4*>(importance + lane / kLanes * stride + row.begin) + row_lane;
    const int room = size - row_lane * 4;
    const auto exists = [&](int quad, int j) { return quad * 32 + j < room; };
    // Importance is not negative, so as an integer it has the same order: its key. Instead of a quad that
    // does not exist, the row's first one is read.
    const auto load = [&](int(&key)[4], int quad) {
      const int4 from = quads[exists(quad, 0) ? quad * kLanes : -row_lane];
      key[0] = from.x, key[1] = from.y, key[2] = from.z, key[3] = from.w;
    };
    /// -1 where there is none.
    const auto clear_others = [&](int(&key)[4], int quad) {
#pragma unroll
      for (int j = 0; j < 4; ++j) key[j] = exists(quad, j) ? key[j] : -1;
    };

    // The highest keys of every 32nd position and of every quad. The quota-th of the former is reached by few more
    // than wanted.
    int highest[4] = {-1, -1, -1, -1}, of_quad[kQuads];
#pragma unroll
    for (int quad = 0; quad < kQuads; ++quad) of_quad[quad] = -1;
    const int longest = __reduce_max_sync(kFullMask, size), shortest = __reduce_min_sync(kFullMask, size);
#pragma unroll
    for (int batch = 0; batch < kQuads; batch += kBatch) {
      if (batch * 32 >= longest) break;
      int key[kBatch][4];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) load(key[i], batch + i);
      if ((batch + kBatch) * 32 > shortest)
#pragma unroll
        for (int i = 0; i < kBatch; ++i) clear_others(key[i], batch + i);
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) highest[j] = max(highest[j], key[i][j]);
        of_quad[batch + i] = max(max(key[i][0], key[i][1]), max(key[i][2], key[i][3]));
      }
    }
    sort_descending(highest);
    const int low = max(0, value_at(highest, quota - 1));

    // The positions that reach it, in any order.
    unsigned left = 0;  // the lane's quads that have some
#pragma unroll
    for (int quad = 0; quad < kQuads; ++quad)
      if (of_quad[quad] >= low) left |= 1u << quad;
    int2* of_row = candidates + lane / kLanes * kCandidateStride;
    int reached = 0;
#pragma unroll 1
    while (__any_sync(kFullMask, left != 0)) {
      const int quad = left ? __ffs(static_cast<int>(left)) - 1 : kQuads;  // no quad kQuads exists
      int key[4], count = 0;
      load(key, quad);
      clear_others(key, quad);
      left &= left - 1;
#pragma unroll
      for (int j = 0; j < 4; ++j) count += key[j] >= low;
      const int sum = inclusive_sum(count);
      int to = reached + sum - count;
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (key[j] >= low) {
          if (to < kMost) of_row[to] = {key[j], quad * 32 + row_lane * 4 + j};
          ++to;
        }
      reached += __shfl_sync(kFullMask, sum, kLanes - 1, kLanes);
    }
    __syncwarp();
    int key[4], position[4], sorted[4];
#pragma unroll
    for (int j = 0; j < 4; j += 2) {
      const int4 two = *reinterpret_cast<const int4*>(of_row + row_lane * 4 + j);
      key[j] = two.x, position[j] = two.y, key[j + 1] = two.z, position[j + 1] = two.w;
    }
    __syncwarp();  // all lanes have read their candidates
#pragma unroll
    for (int j = 0; j < 4; ++j) sorted[j] = key[j] = row_lane * 4 + j < reached ? key[j] : -1;
    sort_descending(sorted);
    const int threshold = value_at(sorted, quota - 1);
    const int next = value_at(sorted, min(quota, kMost - 1));  // a tie, unless the candidates are all wanted
    const bool done = size > 0 && reached <= kMost && (next != threshold || quota == kMost);

    // In ascending order.
#pragma unroll
    for (int j = 0; j < 4; ++j) sorted[j] = key[j] >= threshold && key[j] >= 0 ? kChunk - position[j] : -1;
    sort_descending(sorted);
    if (done)
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (row_lane * 4 + j < quota) row.to[row_lane * 4 + j] = row.first + kChunk - sorted[j];
    return done;
  }
};

}  // namespace ssa::cuda
