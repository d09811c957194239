// The ring of selected keys of the forward and d_q kernels. Each key that any token of a tile selected is read once for
// all of them: the planner warp merges the tokens' ascending lists of blocks, the copier warp fills the ring in shared
// memory, and each token's warp takes the units that its token selected.
#pragma once

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include "config.cuh"
#include "fragments.cuh"
#include "kernels/common/device/launch.cuh"
#include "kernels/common/ptx/mbarrier.cuh"
#include "kernels/common/ptx/tma.cuh"
#include "packed_planner.cuh"
#include "token_tiles.cuh"

namespace ssa::cuda {

/// The copier's message to a token about a stage.
struct StageWord {
  std::uint32_t bits;

  static constexpr int kCutShift = 8, kLastBit = 1 << 16, kLimitShift = 20;
  /// The stage's units that the token selected, a bit each.
  __device__ __forceinline__ unsigned units() const { return bits & 255u; }
  /// The token is in the unit: it attends to the unit's keys up to limit().
  __device__ __forceinline__ bool is_cut(int unit) const { return bits >> (kCutShift + unit) & 1u; }
  __device__ __forceinline__ int limit() const { return static_cast<int>(bits >> kLimitShift); }
  /// The last stage of the tile.
  __device__ __forceinline__ bool last() const { return bits & kLastBit; }
};

/// For C::kTma: boxes of kUnit keys.
struct KeyMaps {
  CUtensorMap k, v;

  template <class C>
  static KeyMaps make([[maybe_unused]] const char* op, [[maybe_unused]] const SparseArgs& a) {
    if constexpr (C::kTma)
      return {tensor_map(op, a.k, a.B, a.T, a.HK, kUnit), tensor_map(op, a.v, a.B, a.T, a.HK, kUnit)};
    else
      return {};
  }
};

/// One CTA per SM.
template <class C>
LaunchShape key_stream_launch(Stream& stream, const TokenTiles& tiles, std::size_t shared_bytes) {
  return {.grid = static_cast<unsigned>(std::min(tiles.count(), stream.cuda().properties.multiProcessorCount)),
          .block = C::kThreads,
          .shared_bytes = shared_bytes};
}

/// A shared-memory address that the compiler keeps in a register instead of recomputing it at each use.
template <class T>
__device__ __forceinline__ std::uint32_t kept_shared_address(const T& object) {
  std::uint32_t address;
  asm volatile("mov.u32 %0, %1;" : "=r"(address) : "r"(shared_address(&object)));
  return address;
}

template <class C>
__device__ __forceinline__ void init_key_stream(typename C::KeyShared& shared) {
  if (threadIdx.x < C::kStages) {
    mbarrier_init(shared_address(&shared.full[threadIdx.x]), (C::kTma ? 1 : kWarpSize) + kArrivalsOfWarp);
    mbarrier_init(shared_address(&shared.empty[threadIdx.x]), C::kTokenWarps * kArrivalsOfWarp);
  }
  if (threadIdx.x < 2) {
    mbarrier_init(shared_address(&shared.plan_full[threadIdx.x]), kArrivalsOfWarp);
    mbarrier_init(shared_address(&shared.plan_empty[threadIdx.x]), kArrivalsOfWarp);
  }
#if SSA_WGMMA_CODE
  if constexpr (C::kTma) fence_barrier_init();
#endif
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

/// The planner warp: merges the lists of a tile's tokens, 32 blocks at a time. Lane i turns the blocks of token i into
/// bits; after a transposition lane i has the tokens that selected block i. A single warp takes about eight cycles per
/// instruction, and more per branch: a loop over units would keep the other warps waiting.
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
      cp_async_wait_group<1>();  // this tile's lists have arrived; the next tile's may be in flight
      plan(now);
    }
    cp_async_wait_group<0>();
  }

 private:
  static constexpr unsigned kNone = 0xffffffffu;  ///< equals -1, the end of a list

  /// The blocks that this lane's token selected.
  struct List {
    const int* entries;
    std::uint32_t shared_entries;  ///< 0 if the list is too long for shared memory
    int slots;                     ///< 0 for a lane without a token

    __device__ __forceinline__ unsigned entry(int slot) const {
      if (slot >= slots) return kNone;
      if (!shared_entries) return static_cast<unsigned>(__ldg(entries + slot));
      unsigned value;
      asm volatile("ld.shared.u32 %0, [%1];"
                   : "=r"(value)
                   : "r"(shared_entries + slot * (C::kTokenWarps * 4))
                   : "memory");
      return value;
    }
  };

  /// Starts the copy of the list, in a cp.async group of its own.
  __device__ __forceinline__ List fetch_list(int tile, int buffer) const {
    List list{};
    if (tile < tiles_.count()) {
      const TokenTask task = tiles_.template task<C>(tile, lane_, a_);
      const bool exists = lane_ < C::kTokenWarps && task.t < a_.T;
      list.slots = exists ? a_.slots : 0;
      list.entries = a_.indices + ((task.b * a_.T + (exists ? task.t : 0)) * a_.HK + task.kv_head) * a_.slots;
      if (a_.slots <= C::kListSlots) {
        list.shared_entries = shared_address(&shared_.messages.lists[buffer][0][0]) + lane_ * 4;
#pragma unroll 4
        for (int slot = 0; slot < list.slots; ++slot)
          cp_async_4(list.shared_entries + slot * (C::kTokenWarps * 4), list.entries + slot, true);
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
          shared_.messages.plans[buffer_].first[at] = first;
          shared_.messages.plans[buffer_].tokens[at] = tokens;
        }
      }
      units += __popc(blocks) * block_units;
    }
    close(units, true);
  }

  __device__ __forceinline__ void open() { mbarrier_wait(shared_address(&shared_.plan_empty[buffer_]), parity_); }
  __device__ __forceinline__ void close(int units, bool last) {
    constexpr int kStage = C::kStageUnits;
    const int filled = max((units + kStage - 1) / kStage * kStage, kStage), at = units + lane_;
    if (at < filled) shared_.messages.plans[buffer_].first[at] = 0, shared_.messages.plans[buffer_].tokens[at] = 0;
    if (lane_ == 0) shared_.messages.plans[buffer_].units = filled, shared_.messages.plans[buffer_].last = last;
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

/// The copier warp: fills the ring as planned, a stage at a time, by TMA or with cp.async, without branches. Keys at
/// and after T become 0: they are masked, but a probability of 0 times a NaN would be NaN.
template <class C>
class KeyStreamCopier {
 public:
  __device__ __forceinline__ KeyStreamCopier(typename C::KeyShared& shared, const SparseArgs& a, const KeyMaps& maps,
                                             const TokenTiles& tiles)
      : shared_(shared), a_(a), maps_(maps), tiles_(tiles), lane_(static_cast<int>(threadIdx.x) % kWarpSize) {
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
      const std::int64_t offset = task.b * a_.T * stride_ + task.kv_head * kD + lane_offset_;
      for (bool last = false; !last;) {
        mbarrier_wait(shared_address(&shared_.plan_full[buffer]), parity);
        const typename C::Messages::Plan& plan = shared_.messages.plans[buffer];
        const int units = plan.units;
        last = plan.last;
#pragma unroll 1
        for (int unit = 0; unit < units; unit += kUnits)
          fill_stage(plan, unit, offset, task, last && unit + kUnits >= units);
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

  __device__ __forceinline__ void fill_stage(const typename C::Messages::Plan& plan, int unit, std::int64_t offset,
                                             const TokenTask& task, bool last) {
    if constexpr (C::kPacked)
      fill_packed_stage(plan, unit, offset, task, last);
    else
      fill_token_stage(plan, unit, offset, task, last);
    mbarrier_arrive_warp(full_ + stage_ * 8, lane_);
    if (++stage_ == C::kStages) stage_ = 0, parity_ ^= 1;
  }

  __device__ __forceinline__ void fill_token_stage(const typename C::Messages::Plan& plan, int unit,
                                                   std::int64_t offset, const TokenTask& task, bool last) {
    const int t = task.t;
    int first[kUnits];
    std::uint32_t bits = 0;
    int highest = 0;
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
      first[i] = plan.first[unit + i];
      bits |= (plan.tokens[unit + i] >> lane_ & 1u) << i;
      highest = max(highest, first[i]);
    }
    if (highest + kUnit - 1 > t - lane_) {  // some token does not attend to all of these keys
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
    load_units(first, offset, task);
    if (lane_ < C::kTokenWarps) shared_.messages.words[stage_][lane_] = bits | (last ? StageWord::kLastBit : 0);
  }

  /// Lane i finds unit i modulo kUnits.
  __device__ __forceinline__ void fill_packed_stage(const typename C::Messages::Plan& plan, int unit,
                                                    std::int64_t offset, const TokenTask& task, bool last) {
    const int shift = __ffs(a_.block_size / kUnit) - 1, mine = lane_ % kUnits;
    const bool exists = unit + mine < plan.units;
    const int block = plan.blocks[exists ? (unit + mine) >> shift : 0];
    const int key = (((plan.first_block + block) << shift) + ((unit + mine) & ((1 << shift) - 1))) * kUnit;
    const int my_first = exists ? key : 0;
    int first[kUnits];
#pragma unroll
    for (int i = 0; i < kUnits; ++i) first[i] = __shfl_sync(kFullMask, my_first, i);
    load_units(first, offset, task);
    typename C::PackedStage& stage = shared_.messages.stages[stage_];
    if (lane_ < kUnits) stage.first[mine] = my_first | static_cast<int>(last);
    for (int word = lane_ / kUnits; word < tiles_.words(); word += kWarpSize / kUnits)
      stage.tokens[word][mine] = exists ? plan.tokens[block * tiles_.words() + word] : 0;
  }

  /// Waits until the next stage is empty and starts its copies.
  __device__ __forceinline__ void load_units(const int (&first)[kUnits], [[maybe_unused]] std::int64_t base_offset,
                                             const TokenTask& task) {
    mbarrier_wait(full_ + kEmpty + stage_ * 8, parity_);
    if constexpr (C::kTma) {
#if SSA_WGMMA_CODE
      if (lane_ == 0) {
        auto& full = *reinterpret_cast<Barrier*>(&shared_.full[stage_]);
        full.arrive_expect_tx(2 * sizeof(shared_.k[0]));
#pragma unroll
        for (int i = 0; i < kUnits; ++i) {
          tma_load(&shared_.k[stage_][i], maps_.k, task.kv_head, first[i], static_cast<int>(task.b), full);
          tma_load(&shared_.v[stage_][i], maps_.v, task.kv_head, first[i], static_cast<int>(task.b), full);
        }
      }
#endif
    } else {
      constexpr int kUnitBytes = sizeof(Tile<kUnit, kD>), kEightRows = 8 * kD * 2;
      constexpr int kValues = offsetof(typename C::KeyShared, v) - offsetof(typename C::KeyShared, k);
      const __nv_bfloat16 *k = a_.k + base_offset, *v = C::kWithValues ? a_.v + base_offset : nullptr;
      const std::uint32_t stage = ring_ + stage_ * (kUnits * kUnitBytes);
#pragma unroll
      for (int i = 0; i < kUnits; ++i) {
        const int keys = lane_keys_ - first[i];  // from this lane's first key to the end of the sequence
        int offset = first[i] * stride_;         // the launcher checks that it fits
#pragma unroll
        for (int r = 0; r < kUnit; r += kRowsAtOnce, offset += kRowsAtOnce * stride_) {
          const std::uint32_t to = stage + places_[r / kRowsAtOnce % kPlaces] + i * kUnitBytes + r / 8 * kEightRows;
          cp_async_16(to, k + offset, r < keys);
          if constexpr (C::kWithValues) cp_async_16(to + kValues, v + offset, r < keys);
        }
      }
      cp_async_mbarrier_arrive_noinc(full_ + stage_ * 8);
    }
  }

  typename C::KeyShared& shared_;
  const SparseArgs& a_;
  const KeyMaps& maps_;
  const TokenTiles& tiles_;
  int lane_, stage_ = 0, stride_, lane_offset_, lane_keys_;
  std::uint32_t parity_ = 1, ring_, full_, places_[kPlaces];
};

/// The work of the two loading warps.
template <class C>
__device__ __forceinline__ void load_key_stream(typename C::KeyShared& shared, const SparseArgs& a, const KeyMaps& maps,
                                                const TokenTiles& tiles) {
  if (static_cast<int>(threadIdx.x) / kWarpSize == C::kPlanner)
    std::conditional_t<C::kPacked, PackedPlanner<C>, KeyStreamPlanner<C>>(shared, a, tiles).run();
  else
    KeyStreamCopier<C>(shared, a, maps, tiles).run();
}

__device__ __forceinline__ std::uint32_t load_shared(std::uint32_t address) {
  std::uint32_t value;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(value) : "r"(address) : "memory");
  return value;
}

/// A stage as a warp with several tokens sees it. Few registers are left for it.
struct PackedStageWord {
  std::uint32_t
      tokens;  ///< lane i has unit i modulo kStageUnits: the warp's tokens that selected it, a bit each, twice
  std::uint32_t bits;

  static constexpr int kCutShift = 8, kLastBit = 1 << 16;
  /// The units that any of the warp's tokens selected, a bit each.
  __device__ __forceinline__ unsigned units() const { return bits & 255u; }
  /// Some token of the warp does not attend to all keys of the unit.
  __device__ __forceinline__ bool is_cut(int unit) const { return bits >> (kCutShift + unit) & 1u; }
  /// The last stage of the tile.
  __device__ __forceinline__ bool last() const { return bits & kLastBit; }
  /// The tokens that selected a unit, for PackedRows::chose. Called by all lanes.
  __device__ __forceinline__ std::uint32_t tokens_of(int unit) const { return __shfl_sync(kFullMask, tokens, unit); }
};

/// The two rows of a lane in the products of a warp with several tokens.
struct PackedRows {
  std::uint32_t
      bits;  ///< the bit of each row's token among the warp's tokens, 16 bits for a row; 0 if it is not in use

  __device__ __forceinline__ PackedRows(const TokenTiles& tiles, const SparseArgs& a, int lane) : bits(0) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = (lane >> 2) + half * 8;
      if (row < tiles.tokens_per_warp() * a.group()) bits |= 1u << (tiles.token_of_row(row) + half * 16);
    }
  }
  /// The row's token is one of `tokens`.
  __device__ __forceinline__ bool chose(std::uint32_t tokens, int half) const {
    return tokens & bits & (half == 0 ? 0xffffu : 0xffff0000u);
  }
  /// Sets the scores of keys after each row's token to -infinity; `ahead` is the warp's first token minus the unit's
  /// first key.
  __device__ __forceinline__ void apply_cut(float (&scores)[2][4], int ahead, int lane) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int token = __ffs(static_cast<int>(bits >> half * 16 & 0xffffu)) - 1;
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e)
          if (n * 8 + (lane & 3) * 2 + (e & 1) > ahead + token) scores[n][e] = -kInfinity;
    }
  }
};

/// A token warp's view of the ring.
template <class C>
class KeyStream {
 public:
  using Word = std::conditional_t<C::kPacked, PackedStageWord, StageWord>;

  __device__ __forceinline__ KeyStream(typename C::KeyShared& shared, const TokenTiles& tiles, int warp, int lane)
      : lane_(lane) {
    k_ = kept_shared_address(shared.k);
    full_ = kept_shared_address(shared.full);
    if constexpr (C::kPacked) {
      const int bit = warp << tiles.field_shift(), mine = lane % C::kStageUnits;
      word_ = kept_shared_address(shared.messages.stages) + mine * 4;
      tokens_bit_ = bit / kWarpSize << kOffsetShift | bit % kWarpSize;
    } else {
      word_ = kept_shared_address(shared.messages.words) + warp * 4;
    }
  }

  /// Waits for the next stage. Packed: `tokens` are those of a warp, beginning with t.
  __device__ __forceinline__ Word wait([[maybe_unused]] int t, [[maybe_unused]] int tokens) {
    mbarrier_wait(full_ + stage_ * 8, parity_);
    Word word;
    if constexpr (C::kPacked) {
      const std::uint32_t stage = word_ + stage_ * static_cast<int>(sizeof(typename C::PackedStage));
      constexpr int kTokensOffset = offsetof(typename C::PackedStage, tokens), kWordStride = C::kStageUnits * 4;
      const int first_and_last = static_cast<int>(load_shared(stage)), first = first_and_last & ~1;
      const std::uint32_t mine = load_shared(stage + kTokensOffset + (tokens_bit_ >> kOffsetShift) * kWordStride) >>
                                     (tokens_bit_ & (kWarpSize - 1)) &
                                 ((1u << tokens) - 1);
      word.tokens = mine | mine << 16;
      constexpr unsigned kUnits = (1u << C::kStageUnits) - 1;
      word.bits = (__ballot_sync(kFullMask, mine && first < t + tokens) & kUnits) |
                  (__ballot_sync(kFullMask, first + kUnit - 1 > t) & kUnits) << PackedStageWord::kCutShift |
                  (first_and_last & 1 ? PackedStageWord::kLastBit : 0);
    } else {
      word.bits = load_shared(word_ + stage_ * (C::kTokenWarps * 4));
    }
    return word;
  }
  __device__ __forceinline__ std::uint32_t k(int unit) const {
    return k_ + (stage_ * C::kStageUnits + unit) * static_cast<int>(sizeof(Tile<kUnit, C::kD>));
  }
  __device__ __forceinline__ std::uint32_t v(int unit) const {
    return k(unit) + static_cast<int>(offsetof(typename C::KeyShared, v) - offsetof(typename C::KeyShared, k));
  }
  /// Packed: the first key of a unit.
  __device__ __forceinline__ int first(int unit) const {
    const std::uint32_t stages = word_ - lane_ % C::kStageUnits * 4;
    return static_cast<int>(
               load_shared(stages + stage_ * static_cast<int>(sizeof(typename C::PackedStage)) + unit * 4)) &
           ~1;
  }
  /// The warp has finished reading the stage.
  __device__ __forceinline__ void release() {
    constexpr int kEmpty = offsetof(typename C::KeyShared, empty) - offsetof(typename C::KeyShared, full);
    mbarrier_arrive_warp(full_ + kEmpty + stage_ * 8, lane_);
    if (++stage_ == C::kStages) stage_ = 0, parity_ ^= 1;
  }

 private:
  static constexpr int kOffsetShift = 8;

  std::uint32_t k_, full_, word_;
  int lane_, stage_ = 0, tokens_bit_ = 0;  ///< packed: the word << kOffsetShift and the bit of the warp's first token
  std::uint32_t parity_ = 0;
};

}  // namespace ssa::cuda
