// The selected keys of one token, streamed by one warp through its own double buffer in shared memory.
#pragma once

#include <climits>

#include "kernels/common/mma.cuh"

namespace ssa::cuda {

/// Blocks are read in units of 16 keys, the row count of a product. A step is kUnits units.
inline constexpr int kUnit = 16;

/// The warps of a block take neighbouring tokens, whose selections overlap: the gathers go through L1.
template <int kD_>
struct TokenConfig {
  static constexpr int kD = kD_;
  static constexpr int kWarps = 4, kThreads = kWarps * kWarpSize;
  static constexpr int kUnits = kD == 64 ? 2 : 1;
  static constexpr int kKeys = kUnits * kUnit;
  static constexpr int kStages = 2;
  static constexpr int kMinBlocks = 3;  ///< as many as shared memory holds

  struct WarpShared {
    Tile<kKeys, kD> k[kStages], v[kStages];
  };
  struct Shared {
    WarpShared warp[kWarps];
  };
};

/// Which rows of q one warp works on: up to 16 heads of one group of one token.
struct TokenTask {
  int t, kv_head, head, heads;  ///< heads [head, head + heads)
  std::int64_t row;

  /// Block (i, kv_head and part of its group, row).
  template <class C>
  static __device__ __forceinline__ TokenTask of_warp(int HQ, int HK) {
    const int G = HQ / HK, parts = (G + 15) / 16;
    TokenTask task;
    task.t = static_cast<int>(blockIdx.x) * C::kWarps + static_cast<int>(threadIdx.x) / kWarpSize;
    task.kv_head = static_cast<int>(blockIdx.y) / parts;
    const int first = static_cast<int>(blockIdx.y) % parts * 16;
    task.head = task.kv_head * G + first;
    task.heads = min(16, G - first);
    task.row = blockIdx.z;
    return task;
  }
};

template <class C, bool kWithValues>
class KeyStream {
 public:
  /// `k` and `v` are [B, T, HK, D], `indices` [B, T, HK, slots].
  __device__ __forceinline__ KeyStream(typename C::WarpShared& shared, const TokenTask& task, const __nv_bfloat16* k,
                                       const __nv_bfloat16* v, const int* indices, int T, int HK, int slots,
                                       int block_size, int lane)
      : shared_(shared), t_(task.t), lane_(lane), block_size_(block_size) {
    indices_ = indices + ((task.row * T + task.t) * HK + task.kv_head) * slots;
    stride_ = static_cast<std::int64_t>(HK) * C::kD;
    const std::int64_t offset = task.row * T * stride_ + task.kv_head * C::kD;
    k_ = k + offset;
    v_ = kWithValues ? v + offset : nullptr;
    int blocks = 0;
    for (int s = 0; s < slots; s += kWarpSize)
      blocks += __popc(__ballot_sync(kFullMask, s + lane < slots && indices_[min(s + lane, slots - 1)] >= 0));
    // The own block is the last one; of it, the units up to the token.
    units_ = blocks == 0 ? 0 : (blocks - 1) * (block_size / kUnit) + task.t % block_size / kUnit + 1;
    find(0);
    load(0);
    find(1);
  }

  __device__ __forceinline__ int steps() const { return (units_ + C::kUnits - 1) / C::kUnits; }

  /// Waits for the keys of `step` and starts the copy of the next ones; steps are taken in order. first_key(unit) is
  /// then the position of the first key of each unit, beyond every token for a unit that is not there.
  __device__ __forceinline__ void advance(int step) {
#pragma unroll
    for (int i = 0; i < C::kUnits; ++i) current_[i] = loading_[i];
    copy_async_wait<0>();
    __syncwarp();  // this stage is there for all lanes, and all have left the other one
    load((step + 1) & 1);
    find(step + 2);
  }
  __device__ __forceinline__ int first_key(int unit) const { return current_[unit]; }

 private:
  static constexpr int kNone = INT_MAX - kUnit;

  /// Looks up the units of `step`, one step ahead of their copy, so that the copy need not wait for the index.
  __device__ __forceinline__ void find(int step) {
    const int per_block = block_size_ / kUnit;  // 1, 2 or 4
#pragma unroll
    for (int i = 0; i < C::kUnits; ++i) {
      const int unit = step * C::kUnits + i;
      found_[i] = unit < units_ ? indices_[unit / per_block] * block_size_ + unit % per_block * kUnit : kNone;
    }
  }

  __device__ __forceinline__ void load(int stage) {
    constexpr int kChunks = C::kD / 8, kRowsAtOnce = kWarpSize / kChunks;
    const int chunk = lane_ % kChunks;
#pragma unroll
    for (int i = 0; i < C::kUnits; ++i) {
      loading_[i] = found_[i];
#pragma unroll 2  // each pass under way keeps two addresses in registers
      for (int r = 0; r < kUnit; r += kRowsAtOnce) {
        const int row = r + lane_ / kChunks, u = found_[i] + row;
        const bool inside = u <= t_;  // the rest becomes 0: it is masked, but 0 times what lies there must not be NaN
        const std::int64_t offset = inside ? u * stride_ + chunk * 8 : 0;
        copy_async_16_l1(shared_.k[stage].address(i * kUnit + row, chunk), k_ + offset, inside);
        if constexpr (kWithValues)
          copy_async_16_l1(shared_.v[stage].address(i * kUnit + row, chunk), v_ + offset, inside);
      }
    }
    copy_async_commit();
  }

  typename C::WarpShared& shared_;
  const __nv_bfloat16 *k_, *v_;
  const int* indices_;
  std::int64_t stride_;
  int t_, lane_, block_size_, units_;
  int found_[C::kUnits], loading_[C::kUnits], current_[C::kUnits];
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

/// products (16 x kKeys) = a (16 x D) times the transpose of a tile of keys or values.
template <class C, class TileType>
__device__ __forceinline__ void multiply_keys(float (&products)[C::kKeys / 8][4],
                                              const std::uint32_t (&a)[C::kD / 16][4], const TileType& tile, int lane) {
#pragma unroll
  for (int n = 0; n < C::kKeys / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) products[n][e] = 0;
#pragma unroll
  for (int kk = 0; kk < C::kD / 16; ++kk)
#pragma unroll
    for (int n = 0; n < C::kUnits; ++n) {
      std::uint32_t b[4];
      load_b(b, tile, n * kUnit, kk, lane);
      mma(products[2 * n], a[kk], b[0], b[1]);
      mma(products[2 * n + 1], a[kk], b[2], b[3]);
    }
}

}  // namespace ssa::cuda
