// Products of FP8 matrices with block scales on Hopper. The operand with row blocks is always the first one of the
// products of the tensor cores; a thread then needs two scales per 64 rows. If it is the second one of the op, the
// output is written transposed. README.md in this directory explains the schedule.
#pragma once

#include <type_traits>

#include "kernels/common/ptx/cluster.cuh"
#include "kernels/common/ptx/tma.cuh"
#include "kernels/quantize_fp8/fp8_matrix.h"

namespace ssa::cuda {

/// A tile of the output: kBlockM rows of the operand with row blocks by kBlockN of the one with square blocks. A
/// warpgroup owns kPieces pieces of 64 x kBlockN. A step is kBlockK of the sum: a row of a block.
struct Fp8HopperConfig {
  static constexpr int kWarpgroups = 2, kWarps = 4 * kWarpgroups;  ///< consumers; one more loads
  static constexpr int kThreads = (kWarps + 4) * kWarpSize;
  static constexpr int kRegisters = 232, kProducerRegisters = 40;  ///< the sum is what the launch gives: 3 x 168
  static constexpr int kPieces = 2;
  static constexpr int kWarpgroupTile = kPieces * kWarpgroupRows;
  static constexpr int kBlockM = kWarpgroups * kWarpgroupTile, kBlockN = 128, kBlockK = 128;
  static constexpr int kStages = 4;
  static constexpr int kCluster = 2;
  static constexpr int kRowBox = kBlockM / kCluster, kSquareBox = kBlockN / kCluster;  ///< rows of a TMA copy
  static constexpr int kPrefetchSteps = 8;       ///< before its end, a tile's output that is added to is read into L2
  static constexpr int kBandRows = 8 * kBlockM;  ///< of the output, which are computed column by column
  /// A sum is split into parts of at least kPartSteps, from kSplitSteps on.
  static constexpr int kPartSteps = 16, kSplitSteps = 64;
  static constexpr int kAddSlices = 4;  ///< of a piece's columns, when parts are added
  static_assert(kBlockN == kFp8Block && kBlockK == kFp8Block && kPieces == 2);

  struct Stage {
    unsigned char rows[kBlockM * kBlockK], squares[kBlockN * kBlockK];
  };
  struct Shared {
    alignas(1024) Stage stages[kStages];
    Tile<kWarpgroupRows, 64> out[kWarpgroups];  ///< half of a piece on its way to global memory
    alignas(16) float row_scales[kStages][kBlockM];
    alignas(16) float square_scales[kStages][4];  ///< of four adjacent steps
    Barrier full[kStages], empty[kStages];
  };
  static_assert(sizeof(Shared) <= 227 * 1024);
};

/// Named barriers; 0 is the one of __syncthreads.
enum class Fp8NamedBarrier : int { kWarpgroup0 = 1, kWarpgroup1, kTurn0, kTurn1 };

template <class Out>
struct Fp8HopperArgs {
  CUtensorMap rows, squares;  ///< values of the operands
  CUtensorMap out_map;        ///< of `out`, where TMA stores it
  const float* row_scales;    ///< [steps, R]
  const float* square_scales;
  std::int64_t square_stride;  ///< of square_scales, per 128 rows
  Out* out;                    ///< [R, S], or [S, R] if transposed
  std::int64_t out_stride;
  int R, S, steps;  ///< rows of the operands, multiples of 16; blocks of 128 along the sum
  /// The two CTAs of a cluster compute adjacent tiles and load what both read once: the rows, or else the squares.
  bool share_rows;
  bool accumulate;
  int cluster_rows, cluster_columns;  ///< tiles of a cluster
  /// The sums of the tiles after the first whole_tiles are split into `parts`, each of which a cluster computes like a
  /// tile. `items` counts both.
  int whole_tiles, parts, items;
  float4* part_sums;  ///< [cluster's part, CTA, piece, n, thread], as the threads of the consumers have them
};

#if SSA_WGMMA_CODE
/// A tile, or a part of its sum.
struct Fp8HopperTile {
  int r0, s0;  ///< first row and column of the CTA's tile; the last cluster may have a tile outside
  int k_begin, k_end;
  int part;  ///< among the parts of all CTAs; -1: the whole sum

  /// In bands of kBandRows, so that what the running CTAs read stays in L2.
  template <class C, class Out>
  static __device__ __forceinline__ Fp8HopperTile at(const Fp8HopperArgs<Out>& a, int item, int rank) {
    Fp8HopperTile tile{.k_begin = 0, .k_end = a.steps, .part = -1};
    int index = item;
    if (item >= a.whole_tiles) {
      const int after = item - a.whole_tiles, part = after % a.parts;
      index = a.whole_tiles + after / a.parts;
      tile.k_begin = part * a.steps / a.parts;
      tile.k_end = (part + 1) * a.steps / a.parts;
      tile.part = after * C::kCluster + rank;
    }
    const int band = a.share_rows ? C::kBandRows / C::kBlockM : C::kBandRows / C::kBlockM / C::kCluster;
    const int first = index / (band * a.cluster_columns) * band, in_band = index - first * a.cluster_columns;
    const int height = min(band, a.cluster_rows - first);
    const int row = first + in_band % height, column = in_band / height;
    tile.r0 = (a.share_rows ? row : row * C::kCluster + rank) * C::kBlockM;
    tile.s0 = (a.share_rows ? column * C::kCluster + rank : column) * C::kBlockN;
    return tile;
  }
};

/// Where a thread's sums of the n-th 8 columns of a piece of a part are.
template <class C>
__device__ __forceinline__ std::int64_t part_sum_index(int part, int piece, int n, int thread) {
  return ((std::int64_t{part} * C::kPieces + piece) * 16 + n) * (C::kWarps * kWarpSize) + thread;
}

/// Reads the tile of the output into L2. Called by the threads of the consumers, with their numbers.
template <class C, bool kTransposed>
__device__ __forceinline__ void prefetch_tile(const Fp8HopperArgs<float>& a, const Fp8HopperTile& tile, int thread) {
  static_assert(C::kBlockM * C::kBlockN == C::kWarps * kWarpSize * 128);
  constexpr int kParts = (kTransposed ? C::kBlockM : C::kBlockN) / 128;  // of 128 elements, a row of the output
  const int row = (kTransposed ? tile.s0 : tile.r0) + thread / kParts;
  const int column = (kTransposed ? tile.r0 : tile.s0) + thread % kParts * 128;
  const int columns = min(128, (kTransposed ? a.R : a.S) - column);
  const float* from = a.out + row * a.out_stride + column;
  if (row < (kTransposed ? a.S : a.R) && columns > 0 && reinterpret_cast<std::uintptr_t>(from) % 16 == 0)
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(__cvta_generic_to_global(from)),
                 "r"(columns * static_cast<int>(sizeof(float)))
                 : "memory");
}

/// Stores this warp's 16 rows of 8 kCount columns, from row r and column s of the product on. For each column, or for
/// each row, the lanes of a warp write 32 bytes at a time.
template <bool kTransposed, class Out, int kCount>
__device__ __forceinline__ void store_rows(const Fp8HopperArgs<Out>& a, const float (&sum)[kCount][4], int r, int s,
                                           int lane) {
  if (r >= a.R) return;
  const auto place = [&](int n, int half) {
    const std::int64_t row = r + lane / 4 + half * 8, column = s + n * 8 + lane % 4 * 2;
    return a.out + (kTransposed ? column * a.out_stride + row : row * a.out_stride + column);
  };
  const std::int64_t next = kTransposed ? a.out_stride : 1;  // column
  float before[kCount][4] = {};
  if constexpr (std::is_same_v<Out, float>) {
    if (a.accumulate) {
#pragma unroll
      for (int n = 0; n < kCount; ++n)
        if (s + n * 8 < a.S) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const float* from = place(n, half);
            before[n][2 * half] = from[0];
            before[n][2 * half + 1] = from[next];
          }
        }
    }
  }
#pragma unroll
  for (int n = 0; n < kCount; ++n)
    if (s + n * 8 < a.S) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        Out* to = place(n, half);
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          if constexpr (std::is_same_v<Out, float>)
            to[e * next] = sum[n][2 * half + e] + before[n][2 * half + e];
          else
            to[e * next] = __float2bfloat16_rn(sum[n][2 * half + e]);
        }
      }
    }
}
#endif

template <class Out, bool kTransposed>
__global__ void __launch_bounds__(Fp8HopperConfig::kThreads, 1)
    fp8_matmul_hopper_kernel(const __grid_constant__ Fp8HopperArgs<Out> a) {
#if SSA_WGMMA_CODE
  using C = Fp8HopperConfig;
  constexpr bool kStaged = std::is_same_v<Out, __nv_bfloat16> && !kTransposed;
  extern __shared__ __align__(1024) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<C::Shared*>(shared_bytes);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarpSize;
  const int warpgroup = uniform(thread / kWarpgroupThreads), rank = cluster_rank();

  if (thread == 0) {
    for (int i = 0; i < C::kStages; ++i) {
      shared.full[i].init(1);
      shared.empty[i].init(C::kCluster * C::kWarps * kArrivalsOfWarp);
    }
    fence_barrier_init();
  }
  cluster_sync();
  wait_for_previous_kernel();
  const int clusters = static_cast<int>(gridDim.x) / C::kCluster,
            first_item = static_cast<int>(blockIdx.x) / C::kCluster;

  if (warpgroup == C::kWarpgroups) {
    warpgroup_reg_dealloc<C::kProducerRegisters>();
    if (thread == C::kWarps * kWarpSize) {
      prefetch_tensormap(a.rows), prefetch_tensormap(a.squares);
      constexpr unsigned kAll = (1u << C::kCluster) - 1;
      constexpr int kRowBytes = C::kRowBox * C::kBlockK, kSquareBytes = C::kSquareBox * C::kBlockK;
      constexpr int kSquareScaleBytes = sizeof(shared.square_scales[0]);
      unsigned uses = 0;  // bit i: whether stage i was used an odd number of times
      for (int item = first_item; item < a.items; item += clusters) {
        const auto tile = Fp8HopperTile::at<C>(a, item, rank);
        const float* row_scales = a.row_scales + tile.r0;
        const int row_scale_bytes = min(C::kBlockM, max(0, a.R - tile.r0)) * static_cast<int>(sizeof(float));
        const float* square_scales = a.square_scales + min(tile.s0, a.S - 1) / C::kBlockN * a.square_stride;
#pragma unroll 1
        for (int k = tile.k_begin, stage = 0; k < tile.k_end; ++k, stage = (stage + 1) % C::kStages) {
          // Of both CTAs: copies for both write to the other one's stage, too.
          shared.empty[stage].wait(~(uses >> stage) & 1);
          uses ^= 1u << stage;
          Barrier& full = shared.full[stage];
          auto& [rows, squares] = shared.stages[stage];
          full.arrive_expect_tx(static_cast<int>(sizeof(C::Stage)) + row_scale_bytes + kSquareScaleBytes);
          if (row_scale_bytes > 0)
            bulk_load(shared.row_scales[stage], row_scales + std::int64_t{k} * a.R, row_scale_bytes, full);
          bulk_load(shared.square_scales[stage], square_scales + k / 4 * 4, kSquareScaleBytes, full);
          if (a.share_rows) {
            tma_load_multicast(rows + rank * kRowBytes, a.rows, k * C::kBlockK, tile.r0 + rank * C::kRowBox, full,
                               kAll);
#pragma unroll
            for (int i = 0; i < C::kCluster; ++i)
              tma_load(squares + i * kSquareBytes, a.squares, k * C::kBlockK, tile.s0 + i * C::kSquareBox, full);
          } else {
#pragma unroll
            for (int i = 0; i < C::kCluster; ++i)
              tma_load(rows + i * kRowBytes, a.rows, k * C::kBlockK, tile.r0 + i * C::kRowBox, full);
            tma_load_multicast(squares + rank * kSquareBytes, a.squares, k * C::kBlockK, tile.s0 + rank * C::kSquareBox,
                               full, kAll);
          }
        }
      }
    }
  } else {
    warpgroup_reg_alloc<C::kRegisters>();
    constexpr int kOut = static_cast<int>(Fp8NamedBarrier::kWarpgroup0);
    constexpr int kTurn = static_cast<int>(Fp8NamedBarrier::kTurn0), kTurnThreads = C::kWarpgroups * kWarpgroupThreads;
    if (warpgroup == C::kWarpgroups - 1) barrier_arrive(kTurn, kTurnThreads);
    const int warp_row = uniform(thread % kWarpgroupThreads / kWarpSize) * 16;
    const std::uint64_t rows =
        wgmma_operand(shared_address(shared.stages[0].rows) + warpgroup * C::kWarpgroupTile * C::kBlockK);
    const std::uint64_t squares = wgmma_operand(shared_address(shared.stages[0].squares));
    const float* row_scales_at = shared.row_scales[0] + warpgroup * C::kWarpgroupTile + warp_row + lane / 4;
    const ClusterArrival<C::kCluster> release(shared.empty[0], lane);
    unsigned uses = 0;  // bit i: whether stage i was used an odd number of times
    float sum[C::kPieces][16][4], partial[16][4];
    // After the last tile, the last one again.
    const auto tile_of = [&](int item) { return Fp8HopperTile::at<C>(a, min(item, a.items - 1), rank); };
    auto tile = tile_of(first_item), next_tile = tile;
    shared.full[0].wait(0);

    for (int item = first_item; item < a.items; item += clusters, tile = next_tile) {
      const int own_r0 = tile.r0 + warpgroup * C::kWarpgroupTile;
#pragma unroll
      for (int piece = 0; piece < C::kPieces; ++piece)
#pragma unroll
        for (int n = 0; n < 16; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) sum[piece][n][e] = 0;

      /// A piece of 64 x 128 through TMA, one half after the other.
      const auto stage_piece = [&](int piece) {
        auto& staged = shared.out[warpgroup];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          if (thread % kWarpgroupThreads == 0) tma_store_wait_read();
          barrier_sync(kOut + warpgroup, kWarpgroupThreads);
#pragma unroll
          for (int m = 0; m < 4; ++m) {
            std::uint32_t packed[4];
            pack_a(packed, sum[piece][8 * half + 2 * m], sum[piece][8 * half + 2 * m + 1]);
            stmatrix_16x16(staged, warp_row, m, packed, lane);
          }
          fence_view_async_shared();
          barrier_sync(kOut + warpgroup, kWarpgroupThreads);
          if (thread % kWarpgroupThreads == 0)
            tma_store(a.out_map, staged.data, tile.s0 + half * 64, own_r0 + piece * kWarpgroupRows);
        }
      };

      // Step k, whose operands are in this stage. (The compiler keeps what steers the loop in uniform registers only if
      // its end is uniform.)
      const int k_end = uniform(tile.k_end);
      const auto step = [&](int k, int stage) {
        const std::uint64_t offset = stage * (sizeof(C::Stage) >> 4);
        const bool last = k + 1 == k_end, more = !last || item + clusters < a.items;
        const int next = last ? 0 : (stage + 1) % C::kStages;  // stage; a tile begins with the first one
        float scales[C::kPieces][2];
#pragma unroll
        for (int piece = 0; piece < C::kPieces; ++piece) {
          // In turn, so that the warpgroups stay apart: one adds while the products of the other run.
          barrier_sync(kTurn + warpgroup, kTurnThreads);
          wgmma_fence();
#pragma unroll
          for (int i = 0; i < C::kBlockK / 32; ++i)
            wgmma_e4m3(partial, rows + (offset + piece * (kWarpgroupRows * C::kBlockK >> 4) + i * kNextAlongRow),
                       squares + (offset + i * kNextAlongRow), i > 0);
          wgmma_commit();
          barrier_arrive(kTurn + 1 - warpgroup, kTurnThreads);
          if (piece == 0) {
            // Of rows outside the scales are those of other tiles; these rows are not stored.
            const float square_scale = shared.square_scales[stage][k % 4];
#pragma unroll
            for (int p = 0; p < C::kPieces; ++p)
#pragma unroll
              for (int half = 0; half < 2; ++half)
                scales[p][half] = row_scales_at[stage * C::kBlockM + p * kWarpgroupRows + half * 8] * square_scale;
            if (last) next_tile = tile_of(item + clusters);
            if constexpr (std::is_same_v<Out, float>)
              if (a.accumulate && tile.part < 0 && k == max(tile.k_begin, k_end - C::kPrefetchSteps))
                prefetch_tile<C, kTransposed>(a, tile, thread);
          } else {
            if constexpr (kStaged)
              if (last && tile.part < 0) stage_piece(0);
            // Here, where there is time, and not between this step's last products and the next step's first ones.
            uses ^= 1u << stage;
            if (more && next != stage) shared.full[next].wait(uses >> next & 1);
          }
          wgmma_wait<0>();
          warpgroup_fence_operand(partial);
          if (piece + 1 == C::kPieces) {
            release.arrive(stage);
            if (more && next == stage) shared.full[next].wait(uses >> next & 1);
          }
#pragma unroll
          for (int n = 0; n < 16; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) sum[piece][n][e] = fmaf(partial[n][e], scales[piece][e / 2], sum[piece][n][e]);
        }
      };
#pragma unroll 1
      for (int k = tile.k_begin; k < k_end; k += C::kStages)
#pragma unroll
        for (int stage = 0; stage < C::kStages; ++stage) {
          if (k + stage >= k_end) break;
          step(k + stage, stage);
        }

      if (tile.part >= 0) {
#pragma unroll
        for (int piece = 0; piece < C::kPieces; ++piece)
#pragma unroll
          for (int n = 0; n < 16; ++n) {
            const float(&values)[4] = sum[piece][n];
            a.part_sums[part_sum_index<C>(tile.part, piece, n, thread)] =
                make_float4(values[0], values[1], values[2], values[3]);
          }
      } else if constexpr (kStaged) {
        stage_piece(1);
      } else {
#pragma unroll
        for (int piece = 0; piece < C::kPieces; ++piece)
          store_rows<kTransposed>(a, sum[piece], own_r0 + piece * kWarpgroupRows + warp_row, tile.s0, lane);
      }
    }
    if (thread % kWarpgroupThreads == 0) tma_store_wait_read();
    if (warpgroup == 0) barrier_sync(kTurn, kTurnThreads);
  }
  // The other CTA may still write to this one's shared memory.
  __syncwarp();
  cluster_sync();
#endif
}

/// Adds the parts of sums in their order, and writes the output. Grid: [CTAs of the split tiles, kPieces kAddSlices].
template <class Out, bool kTransposed>
__global__ void __launch_bounds__(Fp8HopperConfig::kWarps* kWarpSize)
    fp8_add_parts_kernel(const __grid_constant__ Fp8HopperArgs<Out> a) {
#if SSA_WGMMA_CODE
  using C = Fp8HopperConfig;
  constexpr int kCount = 16 / C::kAddSlices;  // of 8 columns
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarpSize;
  const int split_tile = static_cast<int>(blockIdx.x) / C::kCluster, rank = static_cast<int>(blockIdx.x) % C::kCluster;
  const int piece = static_cast<int>(blockIdx.y) / C::kAddSlices;
  const int n0 = static_cast<int>(blockIdx.y) % C::kAddSlices * kCount;
  wait_for_previous_kernel();
  float sum[kCount][4] = {};
#pragma unroll 4
  for (int part = 0; part < a.parts; ++part)
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
      const int of_cta = (split_tile * a.parts + part) * C::kCluster + rank;
      const float4 values = a.part_sums[part_sum_index<C>(of_cta, piece, n0 + n, thread)];
      sum[n][0] += values.x, sum[n][1] += values.y, sum[n][2] += values.z, sum[n][3] += values.w;
    }
  const auto tile = Fp8HopperTile::at<C>(a, a.whole_tiles + split_tile * a.parts, rank);
  const int warp_row = thread / kWarpgroupThreads * C::kWarpgroupTile + piece * kWarpgroupRows +
                       thread % kWarpgroupThreads / kWarpSize * 16;
  store_rows<kTransposed>(a, sum, tile.r0 + warp_row, tile.s0 + n0 * 8, lane);
#endif
}

}  // namespace ssa::cuda
