// The planner warp of packed tiles, which have up to 16 tokens per warp: too many for a lane each.
#pragma once

#include "config.cuh"
#include "kernels/common/ptx/mbarrier.cuh"
#include "token_tiles.cuh"

namespace ssa::cuda {

/// Merges the lists of a tile's tokens, a window of adjacent blocks at a time: lanes read entries of the lists in any
/// order and set bits with atomics, whose order does not matter. A plan is one window.
template <class C>
class PackedPlanner {
 public:
  __device__ __forceinline__ PackedPlanner(typename C::KeyShared& shared, const SparseArgs& a, const TokenTiles& tiles)
      : shared_(shared), a_(a), tiles_(tiles), lane_(static_cast<int>(threadIdx.x) % kWarpSize) {
    slot_lanes_shift_ = min(kWarpSize - __clz(a.slots - 1), kLaneBits);
  }

  __device__ __forceinline__ void run() {
    for (int tile = static_cast<int>(blockIdx.x); tile < tiles_.count(); tile += static_cast<int>(gridDim.x)) {
      const TokenTask first = tiles_.template task<C>(tile, 0, a_);
      const int tokens = min(C::kTokenWarps * tiles_.tokens_per_warp(), a_.T - first.t);
      const int* lists = a_.indices + ((first.b * a_.T + first.t) * a_.HK + first.kv_head) * a_.slots;
      const int blocks = (first.t + tokens - 1) / a_.block_size + 1;
      for (int window = 0; window < blocks; window += tiles_.window())
        plan(lists, tokens, window, window + tiles_.window() >= blocks);
    }
  }

 private:
  static constexpr int kLaneBits = 5;
  static_assert(1 << kLaneBits == kWarpSize);

  __device__ __forceinline__ void plan(const int* lists, int tokens, int window, bool last) {
    typename C::PackedPlan& plan = shared_.messages.plans[buffer_];
    mbarrier_wait(shared_address(&shared_.plan_empty[buffer_]), parity_);
    auto* words = reinterpret_cast<uint4*>(plan.tokens);
#pragma unroll 4
    for (int i = lane_; i < C::kWindowWords / 4; i += kWarpSize) words[i] = {};
    plan.present[lane_] = 0;
    __syncwarp();
    mark(plan, lists, tokens, window);
    __syncwarp();
    const int blocks = list(plan);
    if (lane_ == 0) {
      if (blocks == 0) plan.blocks[0] = 0;
      plan.first_block = window;
      plan.units = (last ? max(blocks, 1) : blocks) * (a_.block_size / kUnit);  // the last stage ends the tile
      plan.last = last;
    }
    mbarrier_arrive_warp(shared_address(&shared_.plan_full[buffer_]), lane_);
    buffer_ ^= 1;
    if (buffer_ == 0) parity_ ^= 1;
  }

  /// Sets the bits of the entries that are in the window. Adjacent lanes read adjacent slots.
  __device__ __forceinline__ void mark(typename C::PackedPlan& plan, const int* lists, int tokens, int window) const {
    constexpr int kLoads = 8;  // in flight
    const int stride = a_.HK * a_.slots, tokens_at_once = kWarpSize >> slot_lanes_shift_;
    for (int slot = lane_ & ((1 << slot_lanes_shift_) - 1); slot < a_.slots; slot += kWarpSize)
#pragma unroll 1
      for (int token = lane_ >> slot_lanes_shift_; token < tokens; token += kLoads * tokens_at_once) {
        int blocks[kLoads];
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
          const int at = token + i * tokens_at_once;
          blocks[i] = at < tokens ? __ldg(lists + static_cast<std::int64_t>(at) * stride + slot) : -1;
        }
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
          if (blocks[i] < window || blocks[i] >= window + tiles_.window()) continue;
          const int block = blocks[i] - window, bit = tiles_.bit_of_token(token + i * tokens_at_once);
          atomicOr(&plan.tokens[block * tiles_.words() + bit / kWarpSize], 1u << bit % kWarpSize);
          atomicOr(&plan.present[block / kWarpSize], 1u << block % kWarpSize);
        }
      }
  }

  /// Writes the present blocks in ascending order and returns their number.
  __device__ __forceinline__ int list(typename C::PackedPlan& plan) const {
    static_assert(C::kMaxWindow == kWarpSize * kWarpSize);  // a word for each lane
    unsigned present = plan.present[lane_];
    const int count = __popc(present), end = warp_inclusive_sum(count, lane_);
    for (int at = end - count; present; present &= present - 1)
      plan.blocks[at++] = static_cast<std::uint16_t>(lane_ * kWarpSize + __ffs(static_cast<int>(present)) - 1);
    __syncwarp();
    return __shfl_sync(kFullMask, end, kWarpSize - 1);
  }

  typename C::KeyShared& shared_;
  const SparseArgs& a_;
  const TokenTiles& tiles_;
  int lane_, slot_lanes_shift_, buffer_ = 0;
  std::uint32_t parity_ = 1;
};

}  // namespace ssa::cuda
