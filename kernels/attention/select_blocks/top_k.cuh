// Choice of the most important blocks of a token by one warp, chunk by chunk.
#pragma once

#include "config.cuh"

namespace ssa::cuda {

/// The lanes' values in descending order (bitonic sort).
__device__ __forceinline__ int sort_descending(int value, int lane) {
#pragma unroll
  for (int size = 2; size <= kWarpSize; size *= 2)
#pragma unroll
    for (int distance = size / 2; distance > 0; distance /= 2) {
      const int other = __shfl_xor_sync(kFullMask, value, distance);
      // Runs of `size` lanes alternate between descending and ascending.
      value = ((lane & size) == 0) == ((lane & distance) == 0) ? max(value, other) : min(value, other);
    }
  return value;
}

/// Positions [begin, end) of a chunk of importance; position 0 is block first_block.
struct ChunkRange {
  const float* importance;
  int first_block, begin, end;
};

/// The highest key of every 32nd position of the range. Important blocks are often adjacent: this spreads them over the
/// lanes, so that the n-th highest of the lanes' values is reached by few more than n keys.
__device__ __forceinline__ int highest_key(const ChunkRange& range, int lane) {
  int highest = -1;
  for (int at = range.begin + lane; at < range.end; at += kWarpSize)
    highest = max(highest, __float_as_int(range.importance[at]));
  return highest;
}

/// Importance is not negative, so as an integer it has the same order: its key. The keys of a lane's positions, which
/// are adjacent; an odd number of them, so that lanes read from different banks.
template <int kChunk>
struct ChunkKeys {
  static constexpr int kKeys = kChunk / kWarpSize + 1;

  int count, first;  ///< positions [first, first + count)
  int key[kKeys];    ///< -1 at and after the range's end

  __device__ __forceinline__ ChunkKeys(const ChunkRange& range, int lane)
      : count((range.end - range.begin + kWarpSize - 1) / kWarpSize | 1), first(range.begin + lane * count) {
#pragma unroll
    for (int i = 0; i < kKeys; ++i) key[i] = -1;
    for_each([&](int i) {
      if (first + i < range.end) key[i] = __float_as_int(range.importance[first + i]);
    });
  }

  /// Calls f(i) for the lane's keys in ascending order of position.
  template <class F>
  __device__ __forceinline__ void for_each(F&& f) const {
#pragma unroll
    for (int i = 0; i < kKeys; ++i) {
      if (i >= count) break;
      f(i);
    }
  }
};

inline constexpr int kMostInRegisters = 512;  ///< positions of a range whose keys a warp keeps in registers

/// ChunkKeys, or with more positions the same keys, read again each time.
template <int kChunk>
struct LaneKeys {
  const ChunkRange& range;
  int count, first;

  __device__ __forceinline__ LaneKeys(const ChunkRange& of, int lane)
      : range(of), count((of.end - of.begin + kWarpSize - 1) / kWarpSize | 1), first(of.begin + lane * count) {}

  /// Calls f(position, key) in ascending order of position.
  template <class F>
  __device__ __forceinline__ void for_each(F&& f) const {
    const int end = min(first + count, range.end);
#pragma unroll 4
    for (int at = first; at < end; ++at) f(at, __float_as_int(range.importance[at]));
  }
};
template <int kChunk>
requires(kChunk <= kMostInRegisters) struct LaneKeys<kChunk> : ChunkKeys<kChunk> {
  using ChunkKeys<kChunk>::ChunkKeys;

  template <class F>
  __device__ __forceinline__ void for_each(F&& f) const {
    ChunkKeys<kChunk>::for_each([&](int i) { f(this->first + i, this->key[i]); });
  }
};

/// Entries above `key` are chosen, and the first quota - above of those equal to it.
struct Threshold {
  int key, above;
};

/// The threshold that exactly `quota` entries of the list and the chunk together reach; they are more than `quota`.
/// `candidates` has room for kWarpSize entries of this warp.
template <int kChunk>
__device__ __forceinline__ Threshold find_threshold(const BlockList& list, const ChunkRange& range,
                                                    const ChunkKeys<kChunk>& keys, int quota, int* candidates,
                                                    int lane) {
  const auto list_key = [&](int at) { return __float_as_int(list.importance[at]); };
  const auto lane_count_from = [&](int least) {
    int count = 0;
    keys.for_each([&](int i) { count += keys.key[i] >= least; });
    for (int at = lane; at < list.length; at += kWarpSize) count += list_key(at) >= least;
    return count;
  };
  const auto count_from = [&](int least) { return __reduce_add_sync(kFullMask, lane_count_from(least)); };

  int highest = highest_key(range, lane);
  for (int at = lane; at < list.length; at += kWarpSize) highest = max(highest, list_key(at));
  highest = sort_descending(highest, lane);

  // `low` is reached by `reached` entries, at least `quota`; `high` by fewer. The quota-th highest of the lanes'
  // highest keys is reached by few more entries than wanted.
  int low = quota <= kWarpSize ? max(0, __shfl_sync(kFullMask, highest, quota - 1)) : 0;
  int high = __shfl_sync(kFullMask, highest, 0) + 1, reached = count_from(low);
  while (reached > kWarpSize && high - low > 1) {
    const int middle = low + (high - low) / 2, count = count_from(middle);
    if (count >= quota)
      low = middle, reached = count;
    else
      high = middle;
  }
  if (reached > kWarpSize) return {low, count_from(low + 1)};  // many equal entries

  // One candidate per lane.
  int to = warp_exclusive_sum(lane_count_from(low), lane);
  keys.for_each([&](int i) {
    if (keys.key[i] >= low) candidates[to++] = keys.key[i];
  });
  for (int at = lane; at < list.length; at += kWarpSize)
    if (list_key(at) >= low) candidates[to++] = list_key(at);
  __syncwarp();
  const int candidate = lane < reached ? candidates[lane] : -1;
  const int key = __shfl_sync(kFullMask, sort_descending(candidate, lane), quota - 1);
  return {key, __popc(__ballot_sync(kFullMask, candidate > key))};
}

/// Keeps the entries of the list that are above the threshold, and the first `ties` at it; reduces `ties` by those.
__device__ __forceinline__ void compact_list(BlockList& list, int threshold, int& ties, int lane) {
  int kept = 0;
  for (int at = 0; at < list.length; at += kWarpSize) {
    const bool exists = at + lane < list.length;
    const float value = exists ? list.importance[at + lane] : 0;
    const int block = exists ? list.blocks[at + lane] : 0, key = exists ? __float_as_int(value) : -1;
    const bool tie = exists && key == threshold;
    const unsigned lanes_before = (1u << lane) - 1, tie_lanes = __ballot_sync(kFullMask, tie);
    const bool chosen = key > threshold || (tie && __popc(tie_lanes & lanes_before) < ties);
    const unsigned chosen_lanes = __ballot_sync(kFullMask, chosen);
    __syncwarp();  // all lanes have read their entries
    if (chosen) {
      const int to = kept + __popc(chosen_lanes & lanes_before);  // never after what has been read
      list.importance[to] = value;
      list.blocks[to] = block;
    }
    ties -= min(ties, __popc(tie_lanes));
    kept += __popc(chosen_lanes);
    __syncwarp();
  }
  list.length = kept;
}

/// Appends the chunk's entries above the threshold, and the first `ties` at it.
template <int kChunk>
__device__ __forceinline__ void append_chunk(BlockList& list, const ChunkKeys<kChunk>& keys, int first_block,
                                             int threshold, int ties, int lane) {
  // Two plain loops: with for_each the compiler keeps the ties of the first loop in registers for the second.
  int lane_above = 0, lane_ties = 0;
#pragma unroll
  for (int i = 0; i < keys.kKeys; ++i) {
    if (i >= keys.count) break;
    lane_above += keys.key[i] > threshold;
    lane_ties += keys.key[i] == threshold && threshold >= 0;
  }
  const int sums = warp_exclusive_sum(lane_above | lane_ties << 16, lane), ties_before = min(sums >> 16, ties);
  int to = list.length + (sums & 0xffff) + ties_before, room = ties - ties_before;
#pragma unroll
  for (int i = 0; i < keys.kKeys; ++i) {
    if (i >= keys.count) break;
    const bool tie = keys.key[i] == threshold && threshold >= 0;
    if (keys.key[i] > threshold || (tie && room > 0)) {
      list.importance[to] = __int_as_float(keys.key[i]);
      list.blocks[to++] = first_block + keys.first + i;
    }
    room -= tie;
  }
  __syncwarp();
  list.length = __shfl_sync(kFullMask, to, kWarpSize - 1);
}

/// Keeps the `quota` most important of the list's entries and the range's blocks in the list. The blocks of the range
/// come after the blocks of the list. Equal importance: the lower index wins.
template <int kChunk>
__device__ __forceinline__ void keep_most_important(BlockList& list, const ChunkRange& range, int quota,
                                                    int* candidates, int lane) {
  if (range.end <= range.begin || quota <= 0) return;
  const ChunkKeys<kChunk> keys(range, lane);
  Threshold threshold = {-1, quota};  // all entries are above -1
  if (list.length + range.end - range.begin > quota)
    threshold = find_threshold(list, range, keys, quota, candidates, lane);
  int ties = quota - threshold.above;
  compact_list(list, threshold.key, ties, lane);
  append_chunk(list, keys, range.first_block, threshold.key, ties, lane);
}

/// The `quota` most important of positions [begin, end), ascending and plus `first`, to `to`; returns how many there
/// are. Equal importance: the lower position wins. `list` has room for them, and `candidates` for kWarpSize, of this
/// warp. kMany: made for rows with many candidates or many equal ones; the others take longer.
template <int kChunk, bool kMany = false>
__device__ __forceinline__ int choose_blocks(int* to, const float* importance, int begin, int end, int quota,
                                             BlockList list, int2* candidates, int lane, int first) {
  if (end - begin <= quota) {
    for (int at = begin + lane; at < end; at += kWarpSize) to[at - begin] = first + at;
    return max(end - begin, 0);
  }
  if (quota <= 0) return 0;
  if (!kMany && quota <= kWarpSize) {
    // The quota-th highest of the lanes' highest keys is reached by few more entries than wanted: one per lane.
    const ChunkRange range{importance, 0, begin, end};
    const int highest = highest_key(range, lane);
    const LaneKeys<kChunk> keys(range, lane);
    int count = 0;
    const int low = max(0, __shfl_sync(kFullMask, sort_descending(highest, lane), quota - 1));
    keys.for_each([&](int, int key) { count += key >= low; });
    const int reached = warp_inclusive_sum(count, lane), all = __shfl_sync(kFullMask, reached, kWarpSize - 1);
    if (all <= kWarpSize) {
      int2* candidate = candidates + reached - count;
      keys.for_each([&](int at, int key) {
        if (key >= low) *candidate++ = {key, at};
      });
      __syncwarp();
      const int2 mine = lane < all ? candidates[lane] : int2{-1, 0};
      __syncwarp();  // all lanes have read their candidates
      const int threshold = __shfl_sync(kFullMask, sort_descending(mine.x, lane), quota - 1);
      const unsigned lanes_before = (1u << lane) - 1, above = __ballot_sync(kFullMask, mine.x > threshold);
      const unsigned ties = __ballot_sync(kFullMask, mine.x == threshold);
      const int ties_before = __popc(ties & lanes_before), wanted_ties = quota - __popc(above);
      if (mine.x > threshold || (mine.x == threshold && ties_before < wanted_ties))
        to[__popc(above & lanes_before) + min(ties_before, wanted_ties)] = first + mine.y;
      return quota;
    }
  }
  if constexpr (kChunk <= kMostInRegisters) {
    keep_most_important<kChunk>(list, {importance, 0, begin, end}, quota, &candidates[0].x, lane);
  } else {
#pragma unroll 1
    for (int from = begin; from < end; from += kMostInRegisters)
      keep_most_important<kMostInRegisters>(list, {importance, 0, from, min(from + kMostInRegisters, end)}, quota,
                                            &candidates[0].x, lane);
  }
  for (int at = lane; at < list.length; at += kWarpSize) to[at] = first + list.blocks[at];
  __syncwarp();  // all lanes have read the list
  return list.length;
}

}  // namespace ssa::cuda
