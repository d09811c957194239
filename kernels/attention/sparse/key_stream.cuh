// The selected keys of neighbouring tokens, each read once for all of them: a warp of a thread block merges the
// tokens' ascending lists of blocks, another fills a ring in shared memory, from which each token's warp takes its own.
#pragma once

#include <algorithm>
#include <climits>
#include <cstddef>

#include "kernels/common/device/divide.cuh"
#include "kernels/common/device/launch.cuh"
#include "kernels/common/ptx/mbarrier.cuh"
#include "kernels/common/ptx/mma.cuh"

namespace ssa::cuda {

/// Blocks are read in units of 16 keys, the row count of a product.
inline constexpr int kUnit = 16;

struct SparseArgs {
  const __nv_bfloat16 *q, *k, *v;
  const int* indices;
  int B, T, HQ, HK, slots, block_size;
  float scale;

  __host__ __device__ int group() const { return HQ / HK; }
  /// Warps that share the heads of a group, 16 each.
  __host__ __device__ int parts() const { return (group() + 15) / 16; }
};

/// A thread block stays on its multiprocessor and takes one tile of tokens after the other; the ring runs on from tile
/// to tile, so that warps wait for each other only when they are a whole ring apart. With the loading warps there are
/// four warps a scheduler, or two: all registers are in use.
template <int kD_, bool kWithValues_ = true>
struct TokenConfig {
  static constexpr int kD = kD_;
  static constexpr bool kWithValues = kWithValues_;
  static constexpr int kTokens = kD == 64 ? 14 : 6;  ///< of a tile, one warp each
  static constexpr int kPlanner = kTokens, kCopier = kTokens + 1;
  static constexpr int kThreads = (kTokens + 2) * kWarpSize;
  static constexpr int kStageUnits = kD == 64 ? 4 : 2;
  static constexpr int kStages = 6;      ///< 96 KB of keys and values
  static constexpr int kListSlots = 32;  ///< longer lists are read where they are, which is slow
  static constexpr int kPlanUnits = 256;

  /// Units to load for a tile, or for a part of it, ascending.
  struct Plan {
    alignas(16) int first[kPlanUnits];             ///< first key
    alignas(16) std::uint32_t tokens[kPlanUnits];  ///< which tokens of the tile selected it; none of those that fill up
    int units;                                     ///< a multiple of 4
    bool last;                                     ///< part of the tile
  };

  struct KeyShared {
    Tile<kUnit, kD> k[kStages][kStageUnits], v[kWithValues ? kStages : 1][kStageUnits];
    std::uint64_t full[kStages], empty[kStages];
    std::uint64_t plan_full[2], plan_empty[2];
    std::uint32_t words[kStages][kTokens];
    int lists[2][kListSlots][kTokens];  ///< of this tile and the next
    Plan plans[2];
  };
};

/// What a token finds in a stage.
struct StageWord {
  std::uint32_t bits;

  static constexpr int kCutShift = 4, kLastBit = 1 << 8, kLimitShift = 12;
  /// The stage's units that the token selected, a bit each.
  __device__ __forceinline__ unsigned units() const { return bits & 15u; }
  /// The token lies within the unit: keys up to limit() are seen.
  __device__ __forceinline__ bool is_cut(int unit) const { return bits >> (kCutShift + unit) & 1u; }
  __device__ __forceinline__ int limit() const { return static_cast<int>(bits >> kLimitShift); }
  /// The tile has no more stages.
  __device__ __forceinline__ bool last() const { return bits & kLastBit; }
};

/// Up to 16 heads of one group of one token.
struct TokenTask {
  int t, kv_head, head, heads;  ///< heads [head, head + heads); none of a token that does not exist
  std::int64_t row;

  /// Of the first head, in [B, T, HQ].
  __device__ __forceinline__ std::int64_t position(const SparseArgs& a) const { return (row * a.T + t) * a.HQ + head; }
};

/// The tiles of all rows and heads. Those of one row and head follow each other, so that they are worked on together
/// and share L2.
class TokenTiles {
 public:
  template <class C>
  static TokenTiles make(const char* op, const SparseArgs& a) {
    SSA_CHECK(static_cast<std::int64_t>(a.T) * a.HK * C::kD <= INT_MAX, op, ": ", a.T, " tokens x ", a.HK, " heads x ",
              C::kD, ", expected at most ", INT_MAX, " in all");
    TokenTiles tiles;
    const int groups = (a.T + C::kTokens - 1) / C::kTokens;
    tiles.count_ = a.B * a.HK * a.parts() * groups;
    tiles.groups_ = Divisor(groups);
    tiles.head_parts_ = Divisor(a.HK * a.parts());
    tiles.parts_ = Divisor(a.parts());
    return tiles;
  }

  __host__ __device__ __forceinline__ int count() const { return count_; }
  template <class C>
  __device__ __forceinline__ TokenTask task(int tile, int token, const SparseArgs& a) const {
    const Divisor::Result rest_group = groups_.divide(tile), row_head = head_parts_.divide(rest_group.quotient),
                          head_part = parts_.divide(row_head.rest);
    const int group = a.HQ / a.HK, first = head_part.rest * 16;
    TokenTask task;
    task.t = rest_group.rest * C::kTokens + token;
    task.row = row_head.quotient;
    task.kv_head = head_part.quotient;
    task.head = task.kv_head * group + first;
    task.heads = task.t < a.T ? min(16, group - first) : 0;
    return task;
  }

 private:
  int count_ = 0;
  Divisor groups_, head_parts_, parts_;
};

/// As many thread blocks as run at once.
template <class C>
LaunchShape key_stream_launch(Stream& stream, const TokenTiles& tiles, std::size_t shared_bytes) {
  return {.grid = static_cast<unsigned>(std::min(tiles.count(), stream.cuda().properties.multiProcessorCount)),
          .block = C::kThreads,
          .shared_bytes = shared_bytes};
}

/// An address in shared memory that the compiler keeps, instead of working it out anew at each use.
template <class T>
__device__ __forceinline__ std::uint32_t kept_shared_address(const T& object) {
  std::uint32_t address;
  asm volatile("mov.u32 %0, %1;" : "=r"(address) : "r"(shared_address(&object)));
  return address;
}

template <class C>
__device__ __forceinline__ void init_key_stream(typename C::KeyShared& shared) {
  if (threadIdx.x < C::kStages) {
    mbarrier_init(shared_address(&shared.full[threadIdx.x]), kWarpSize + kArrivalsOfWarp);
    mbarrier_init(shared_address(&shared.empty[threadIdx.x]), C::kTokens * kArrivalsOfWarp);
  }
  if (threadIdx.x < 2) {
    mbarrier_init(shared_address(&shared.plan_full[threadIdx.x]), kArrivalsOfWarp);
    mbarrier_init(shared_address(&shared.plan_empty[threadIdx.x]), kArrivalsOfWarp);
  }
  __syncthreads();
}

/// Bit i of lane j becomes bit j of lane i.
__device__ __forceinline__ std::uint32_t transpose_bits(std::uint32_t x, int lane) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const std::uint32_t low = distance == 16  ? 0x0000ffffu
                              : distance == 8 ? 0x00ff00ffu
                              : distance == 4 ? 0x0f0f0f0fu
                              : distance == 2 ? 0x33333333u
                                              : 0x55555555u;
    const std::uint32_t other = __shfl_xor_sync(kFullMask, x, distance);
    x = lane & distance ? (x & ~low) | (other >> distance & low) : (x & low) | (other & low) << distance;
  }
  return x;
}

/// Merges the lists of a tile's tokens; one warp. 32 blocks at a time: a lane, which is a token, turns its blocks among
/// them into bits; transposed, a lane is a block and has the tokens that selected it. A warp alone takes some eight
/// cycles for an instruction, a branch more: a loop over units would keep the others waiting.
template <class C>
class KeyStreamPlanner {
 public:
  __device__ __forceinline__ KeyStreamPlanner(typename C::KeyShared& shared, const SparseArgs& a,
                                              const TokenTiles& tiles)
      : shared_(shared), a_(a), tiles_(tiles), lane_(static_cast<int>(threadIdx.x) % kWarpSize) {}

  __device__ __forceinline__ void run() {
    const int stride = static_cast<int>(gridDim.x);
    int tile = static_cast<int>(blockIdx.x);
    List now = fetch_list(tile, 0), next{};
    for (int buffer = 0; tile < tiles_.count(); tile += stride, buffer ^= 1, now = next) {
      next = fetch_list(tile + stride, buffer ^ 1);
      cp_async_wait_group<1>();  // this tile's is there, the next one's may be on its way
      plan(now);
    }
    cp_async_wait_group<0>();
  }

 private:
  static constexpr unsigned kNone = 0xffffffffu;  ///< -1, the end of a list, is the same

  /// Of this lane's token.
  struct List {
    const int* entries;
    std::uint32_t shared_entries;  ///< 0 if it is too long for shared memory
    int slots;                     ///< 0 for a lane without a token

    __device__ __forceinline__ unsigned entry(int slot) const {
      if (slot >= slots) return kNone;
      if (!shared_entries) return static_cast<unsigned>(__ldg(entries + slot));
      unsigned value;
      asm volatile("ld.shared.u32 %0, [%1];" : "=r"(value) : "r"(shared_entries + slot * (C::kTokens * 4)) : "memory");
      return value;
    }
  };

  /// Starts the copy of the list, a group of its own.
  __device__ __forceinline__ List fetch_list(int tile, int buffer) const {
    List list{};
    if (tile < tiles_.count()) {
      const TokenTask task = tiles_.template task<C>(tile, lane_, a_);
      const bool exists = lane_ < C::kTokens && task.t < a_.T;
      list.slots = exists ? a_.slots : 0;
      list.entries = a_.indices + ((task.row * a_.T + (exists ? task.t : 0)) * a_.HK + task.kv_head) * a_.slots;
      if (a_.slots <= C::kListSlots) {
        list.shared_entries = shared_address(&shared_.lists[buffer][0][0]) + lane_ * 4;
#pragma unroll 4
        for (int slot = 0; slot < list.slots; ++slot)
          cp_async_4(list.shared_entries + slot * (C::kTokens * 4), list.entries + slot, true);
      }
    }
    cp_async_commit_group();
    return list;
  }

  __device__ __forceinline__ void plan(const List& list) {
    const int block_units = a_.block_size / kUnit;
    unsigned front = list.entry(0);
    int next_slot = 1, units = 0;
    open();
    unsigned lowest = __reduce_min_sync(kFullMask, front);
    while (lowest != kNone) {
      const unsigned base = lowest & ~31u;
      unsigned mine = 0;
      while (front < base + 32) {
        mine |= 1u << (front & 31);
        front = list.entry(next_slot++);
      }
      __syncwarp();
      lowest = __reduce_min_sync(kFullMask, front);
      const unsigned tokens = transpose_bits(mine, lane_), blocks = __ballot_sync(kFullMask, tokens != 0);
      if (units + kWarpSize * block_units > C::kPlanUnits) {
        close(units, false);
        open();
        units = 0;
      }
      if (tokens) {
        int at = units + __popc(blocks & ((1u << lane_) - 1)) * block_units;
        int first = (static_cast<int>(base) + lane_) * a_.block_size;
        for (int i = 0; i < block_units; ++i, ++at, first += kUnit) {
          shared_.plans[buffer_].first[at] = first;
          shared_.plans[buffer_].tokens[at] = tokens;
        }
      }
      units += __popc(blocks) * block_units;
    }
    close(units, true);
  }

  __device__ __forceinline__ void open() { mbarrier_wait(shared_address(&shared_.plan_empty[buffer_]), parity_); }
  __device__ __forceinline__ void close(int units, bool last) {
    const int filled = max((units + 3) & ~3, 4), at = units + lane_;
    if (at < filled) shared_.plans[buffer_].first[at] = 0, shared_.plans[buffer_].tokens[at] = 0;
    if (lane_ == 0) shared_.plans[buffer_].units = filled, shared_.plans[buffer_].last = last;
    mbarrier_arrive_warp(shared_address(&shared_.plan_full[buffer_]), lane_);
    buffer_ ^= 1;
    if (buffer_ == 0) parity_ ^= 1;
  }

  typename C::KeyShared& shared_;
  const SparseArgs& a_;
  const TokenTiles& tiles_;
  int lane_, buffer_ = 0;
  std::uint32_t parity_ = 1;
};

/// Fills the ring by the plans, a stage at a time without branches; one warp. Keys from T on become 0: they are masked,
/// but 0 times what lies there must not be NaN.
template <class C>
class KeyStreamCopier {
 public:
  __device__ __forceinline__ KeyStreamCopier(typename C::KeyShared& shared, const SparseArgs& a,
                                             const TokenTiles& tiles)
      : shared_(shared), a_(a), tiles_(tiles), lane_(static_cast<int>(threadIdx.x) % kWarpSize) {
    const int row = lane_ / kChunks, chunk = lane_ % kChunks;
    ring_ = kept_shared_address(shared.k);
    full_ = kept_shared_address(shared.full);
    stride_ = a.HK * kD;
    lane_offset_ = row * stride_ + chunk * 8;
    lane_keys_ = a.T - row;
#pragma unroll
    for (int i = 0; i < kPlaces; ++i) places_[i] = Tile<kUnit, kD>::offset(i * kRowsAtOnce + row, chunk);
  }

  __device__ __forceinline__ void run() {
    int buffer = 0;
    std::uint32_t parity = 0;
    for (int tile = static_cast<int>(blockIdx.x); tile < tiles_.count(); tile += static_cast<int>(gridDim.x)) {
      const TokenTask task = tiles_.template task<C>(tile, lane_, a_);
      const std::int64_t offset = task.row * a_.T * stride_ + task.kv_head * kD + lane_offset_;
      for (bool last = false; !last;) {
        mbarrier_wait(shared_address(&shared_.plan_full[buffer]), parity);
        const typename C::Plan& plan = shared_.plans[buffer];
        const int units = plan.units;
        last = plan.last;
#pragma unroll 1
        for (int unit = 0; unit < units; unit += kUnits)
          fill_stage(plan, unit, offset, task.t, last && unit + kUnits >= units);
        mbarrier_arrive_warp(shared_address(&shared_.plan_empty[buffer]), lane_);
        buffer ^= 1;
        if (buffer == 0) parity ^= 1;
      }
    }
    cp_async_wait_group<0>();
  }

 private:
  static constexpr int kD = C::kD, kChunks = kD / 8, kRowsAtOnce = kWarpSize / kChunks, kUnits = C::kStageUnits;
  static constexpr int kPlaces = 8 / kRowsAtOnce;  ///< the permutation of a tile's chunks repeats every 8 rows
  static constexpr int kEmpty = offsetof(typename C::KeyShared, empty) - offsetof(typename C::KeyShared, full);

  __device__ __forceinline__ void fill_stage(const typename C::Plan& plan, int unit, std::int64_t row_offset, int t,
                                             bool last) {
    int first[kUnits];
    std::uint32_t bits = 0;
    int highest = 0;
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
      first[i] = plan.first[unit + i];
      bits |= (plan.tokens[unit + i] >> lane_ & 1u) << i;
      highest = max(highest, first[i]);
    }
    if (highest + kUnit - 1 > t - lane_) {  // not every token sees all of them
#pragma unroll
      for (int i = 0; i < kUnits; ++i) {
        const int ahead = t - first[i];
        if (!(bits >> i & 1u) || ahead >= kUnit - 1) continue;
        if (ahead < 0)
          bits &= ~(1u << i);
        else
          bits |= 1u << (StageWord::kCutShift + i) | static_cast<std::uint32_t>(ahead) << StageWord::kLimitShift;
      }
    }
    constexpr int kUnitBytes = sizeof(Tile<kUnit, kD>), kEightRows = 8 * kD * 2;
    constexpr int kValues = offsetof(typename C::KeyShared, v) - offsetof(typename C::KeyShared, k);
    const __nv_bfloat16 *k = a_.k + row_offset, *v = C::kWithValues ? a_.v + row_offset : nullptr;
    const std::uint32_t stage = ring_ + stage_ * (kUnits * kUnitBytes);
    mbarrier_wait(full_ + kEmpty + stage_ * 8, parity_);
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
      const int keys = lane_keys_ - first[i];  // from this lane's first one to the row's end
      int offset = first[i] * stride_;         // the launcher checks that it fits
#pragma unroll
      for (int r = 0; r < kUnit; r += kRowsAtOnce, offset += kRowsAtOnce * stride_) {
        const std::uint32_t to = stage + places_[r / kRowsAtOnce % kPlaces] + i * kUnitBytes + r / 8 * kEightRows;
        cp_async_16(to, k + offset, r < keys);
        if constexpr (C::kWithValues) cp_async_16(to + kValues, v + offset, r < keys);
      }
    }
    if (lane_ < C::kTokens) shared_.words[stage_][lane_] = bits | (last ? StageWord::kLastBit : 0);
    cp_async_mbarrier_arrive_noinc(full_ + stage_ * 8);
    mbarrier_arrive_warp(full_ + stage_ * 8, lane_);
    if (++stage_ == C::kStages) stage_ = 0, parity_ ^= 1;
  }

  typename C::KeyShared& shared_;
  const SparseArgs& a_;
  const TokenTiles& tiles_;
  int lane_, stage_ = 0, stride_, lane_offset_, lane_keys_;
  std::uint32_t parity_ = 1, ring_, full_, places_[kPlaces];
};

/// What the loading warps do.
template <class C>
__device__ __forceinline__ void load_key_stream(typename C::KeyShared& shared, const SparseArgs& a,
                                                const TokenTiles& tiles) {
  if (static_cast<int>(threadIdx.x) / kWarpSize == C::kPlanner)
    KeyStreamPlanner<C>(shared, a, tiles).run();
  else
    KeyStreamCopier<C>(shared, a, tiles).run();
}

/// A token warp's place in the ring.
template <class C>
class KeyStream {
 public:
  __device__ __forceinline__ KeyStream(typename C::KeyShared& shared, int token, int lane) : lane_(lane) {
    k_ = kept_shared_address(shared.k);
    full_ = kept_shared_address(shared.full);
    word_ = kept_shared_address(shared.words) + token * 4;
  }

  /// Waits for the next stage.
  __device__ __forceinline__ StageWord wait() {
    mbarrier_wait(full_ + stage_ * 8, parity_);
    StageWord word;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(word.bits) : "r"(word_ + stage_ * (C::kTokens * 4)) : "memory");
    return word;
  }
  __device__ __forceinline__ std::uint32_t k(int unit) const {
    return k_ + (stage_ * C::kStageUnits + unit) * static_cast<int>(sizeof(Tile<kUnit, C::kD>));
  }
  __device__ __forceinline__ std::uint32_t v(int unit) const {
    return k(unit) + static_cast<int>(offsetof(typename C::KeyShared, v) - offsetof(typename C::KeyShared, k));
  }
  /// The warp has read what it wanted of the stage.
  __device__ __forceinline__ void release() {
    constexpr int kEmpty = offsetof(typename C::KeyShared, empty) - offsetof(typename C::KeyShared, full);
    mbarrier_arrive_warp(full_ + kEmpty + stage_ * 8, lane_);
    if (++stage_ == C::kStages) stage_ = 0, parity_ ^= 1;
  }

 private:
  std::uint32_t k_, full_, word_;
  int lane_, stage_ = 0;
  std::uint32_t parity_ = 0;
};

/// A operand, all of D, straight from global memory: rows 0 .. 15 `stride` elements apart, those from `rows` on as 0.
template <int kD>
__device__ __forceinline__ void load_a_rows(std::uint32_t (&a)[kD / 16][4], const __nv_bfloat16* from,
                                            std::int64_t stride, int rows, int lane) {
  const int r = lane >> 2;
  const __nv_bfloat16* top = from + r * stride + (lane & 3) * 2;
  const __nv_bfloat16* bottom = top + 8 * stride;
#pragma unroll
  for (int kk = 0; kk < kD / 16; ++kk)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int column = kk * 16 + half * 8;
      a[kk][2 * half] = r < rows ? *reinterpret_cast<const std::uint32_t*>(top + column) : 0u;
      a[kk][2 * half + 1] = r + 8 < rows ? *reinterpret_cast<const std::uint32_t*>(bottom + column) : 0u;
    }
}

/// Starts the copy of up to 16 rows that follow each other; those from `rows` on become 0.
template <int kD>
__device__ __forceinline__ void fetch_rows(const Tile<kUnit, kD>& to, const __nv_bfloat16* from, int rows, int lane) {
  constexpr int kChunks = kD / 8, kRowsAtOnce = kWarpSize / kChunks;
#pragma unroll
  for (int i = 0; i < kUnit; i += kRowsAtOnce) {
    const int r = i + lane / kChunks, chunk = lane % kChunks;
    cp_async_16(to.address(r, chunk), from + r * kD + chunk * 8, r < rows);
  }
}

/// products (16 x 16) += a (16 x D) times the transpose of a unit of keys or values.
template <int kD>
__device__ __forceinline__ void multiply_unit(float (&products)[2][4], const std::uint32_t (&a)[kD / 16][4],
                                              std::uint32_t unit, int lane) {
  const int row = (lane & 7) + ((lane >> 4) << 3), half = (lane >> 3) & 1;
#pragma unroll
  for (int kk = 0; kk < kD / 16; ++kk) {
    std::uint32_t b[4];
    ldmatrix(b, unit + Tile<kUnit, kD>::offset(row, 2 * kk + half));
    mma(products[0], a[kk], b[0], b[1]);
    mma(products[1], a[kk], b[2], b[3]);
  }
}

/// sums (16 x D) += a (16 x 16) times a unit of keys or values.
template <int kD>
__device__ __forceinline__ void add_unit(float (&sums)[kD / 8][4], const std::uint32_t (&a)[4], std::uint32_t unit,
                                         int lane) {
#pragma unroll
  for (int d = 0; d < kD / 16; ++d) {
    std::uint32_t b[4];
    ldmatrix_trans(b, unit + Tile<kUnit, kD>::offset(lane & 15, 2 * d + (lane >> 4)));
    mma(sums[2 * d], a, b[0], b[1]);
    mma(sums[2 * d + 1], a, b[2], b[3]);
  }
}

}  // namespace ssa::cuda
