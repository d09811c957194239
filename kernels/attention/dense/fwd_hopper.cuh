// The forward of dense attention on Hopper: a producer warpgroup loads for warpgroups that own 64 query rows each.
// While one takes exponentials, its product with the values of the kv tile before is running, and so are the others'
// products. README.md in this directory explains the schedule.
#pragma once

#include "config.cuh"
#include "kernels/common/ptx/tma.cuh"

namespace ssa::cuda {

struct FwdHopperArgs {
  CUtensorMap q, k, v, out;
  float* lse;
  int B, T, U, HQ, HK;
  float scale;
  int q_tiles, tasks;  ///< a task: a q tile of one head
};

#if SSA_WGMMA_CODE
/// A q tile of one head, and the kv tiles that it sees.
template <class C>
struct FwdHopperTask {
  int row, head, t0, tile_first, tiles;

  /// The n-th task of this CTA. The longest tasks come first, and every second round runs over the CTAs backward, so
  /// that all have the same work. False after the last; a CTA's share of the last round may be empty: tiles = -1.
  template <class Mask>
  __device__ __forceinline__ bool take(const FwdHopperArgs& a, const Mask& mask, int n) {
    const int ctas = static_cast<int>(gridDim.x), cta = static_cast<int>(blockIdx.x);
    const int in_round = n * ctas, rank = in_round + (n % 2 == 0 ? cta : ctas - 1 - cta);
    if (in_round >= a.tasks) return false;
    const int tile = rank / (a.B * a.HQ), in_tile = rank % (a.B * a.HQ);
    row = in_tile / a.HQ;
    head = in_tile % a.HQ;
    t0 = (a.q_tiles - 1 - tile) * C::kBlockM;
    tile_first = mask.key_begin(t0) / C::kBlockN;
    tiles = (min(a.U, mask.key_end(min(a.T, t0 + C::kBlockM) - 1)) + C::kBlockN - 1) / C::kBlockN - tile_first;
    if (rank >= a.tasks) tiles = -1;
    return true;
  }
  /// Of the i-th kv tile: they are taken from the last to the first.
  __device__ __forceinline__ int first_key(int i) const { return (tile_first + tiles - 1 - i) * C::kBlockN; }
};

/// Copies tokens from t on of a head, whose columns lie in tiles of 64.
template <class TileType, int kHalves>
__device__ __forceinline__ void load_head(TileType (&halves)[kHalves], const CUtensorMap& map, int head, int t, int row,
                                          Barrier& full) {
  full.arrive_expect_tx(sizeof(halves));
#pragma unroll
  for (int half = 0; half < kHalves; ++half)
#pragma unroll
    for (int i = 0; i < TileType::kRows; i += kBoxRows)
      tma_load(halves[half].data + i * TileType::kCols, map, kHalves * head + half, t + i, row, full);
}
#endif

template <class C, class Mask>
__global__ void __launch_bounds__(C::kThreads, 1)
    fwd_hopper_kernel(const __grid_constant__ FwdHopperArgs a, const Mask mask) {
#if SSA_WGMMA_CODE
  extern __shared__ __align__(1024) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<typename C::Shared*>(shared_bytes);
  using Ring = PipelineState<C::kStages>;
  using QueryRing = PipelineState<C::kQueryStages>;
  constexpr int kSlices = C::kHalfD / 16, kN = C::kBlockN;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarpSize;
  const int warpgroup = thread / kWarpgroupThreads;

  if (thread == 0) {
    for (int i = 0; i < C::kQueryStages; ++i) {
      shared.q_full[i].init(1);
      shared.q_empty[i].init(C::kWarps * kArrivalsOfWarp);
    }
    for (int i = 0; i < C::kStages; ++i) {
      shared.k_full[i].init(1);
      shared.v_full[i].init(1);
      shared.k_empty[i].init(C::kWarps * kArrivalsOfWarp);
      shared.v_empty[i].init(C::kWarps * kArrivalsOfWarp);
    }
    fence_barrier_init();
  }
  __syncthreads();

  FwdHopperTask<C> task;
  if (warpgroup == C::kWarpgroups) {
    warpgroup_reg_dealloc<C::kProducerRegisters>();
    if (thread == C::kWarps * kWarpSize) {
      prefetch_tensormap(a.q), prefetch_tensormap(a.k), prefetch_tensormap(a.v), prefetch_tensormap(a.out);
      Ring ring;
      QueryRing queries;
      for (int n = 0; task.take(a, mask, n); ++n) {
        if (task.tiles <= 0) continue;
        auto& q = shared.q[queries.stage()];
        shared.q_empty[queries.stage()].wait(queries.parity() ^ 1);
        load_head(q, a.q, task.head, task.t0, task.row, shared.q_full[queries.stage()]);
        queries.advance();
        const int kv_head = task.head / (a.HQ / a.HK);
        const auto load_keys = [&](Ring at, int i) {
          shared.k_empty[at.stage()].wait(at.parity() ^ 1);
          load_head(shared.k[at.stage()], a.k, kv_head, task.first_key(i), task.row, shared.k_full[at.stage()]);
        };
        const auto load_values = [&](Ring at, int i) {
          shared.v_empty[at.stage()].wait(at.parity() ^ 1);
          load_head(shared.v[at.stage()], a.v, kv_head, task.first_key(i), task.row, shared.v_full[at.stage()]);
        };
        for (int i = 0; i < task.tiles; ++i, ring.advance()) {
          load_keys(ring, i);
          if constexpr (!C::kKeysAhead)
            load_values(ring, i);
          else if (i > 0)
            load_values(ring.previous(), i - 1);
        }
        if constexpr (C::kKeysAhead) load_values(ring.previous(), task.tiles - 1);
      }
    }
  } else {
    warpgroup_reg_alloc<C::kRegisters>();
    const float scale2 = a.scale * kLog2e;
    Ring keys;
    QueryRing queries;
    constexpr int kOut = static_cast<int>(NamedBarrier::kWarpgroup0), kTurn = static_cast<int>(NamedBarrier::kTurn0);
    constexpr int kTurnThreads = 2 * kWarpgroupThreads;
    if (C::kPingPong && warpgroup == C::kWarpgroups - 1) barrier_arrive(kTurn, kTurnThreads);

    for (int n = 0; task.take(a, mask, n); ++n) {
      if (task.tiles < 0) continue;
      const int t_first = task.t0 + warpgroup * kWarpgroupRows,
                t = task.t0 + fresh_thread() / kWarpSize * 16 + (lane >> 2);
      float out[C::kD / 8][4] = {}, scores[kN / 8][4];
      std::uint32_t p[kN / 16][4];
      float row_max[2] = {-kInfinity, -kInfinity}, row_sum[2] = {};  // of rows t and t + 8; the sum is this lane's part
      float rescale[2];

      const auto start_scores = [&] {
        wgmma_fence();
#pragma unroll
        for (int half = 0; half < C::kHalves; ++half) {
          const std::uint64_t q = wgmma_operand(shared.q[queries.stage()][half], warpgroup * kWarpgroupRows);
          const std::uint64_t k = wgmma_operand(shared.k[keys.stage()][half], 0);
#pragma unroll
          for (int kk = 0; kk < kSlices; ++kk)
            wgmma<false>(scores, q + kk * kNextAlongRow, k + kk * kNextAlongRow, half + kk > 0);
        }
        wgmma_commit();
      };
      const auto start_output = [&](Ring values) {
        shared.v_full[values.stage()].wait(values.parity());
        const std::uint64_t v = wgmma_operand<C::kD>(shared.v[values.stage()][0], 0);
        wgmma_fence();
#pragma unroll
        for (int m = 0; m < kN / 16; ++m) wgmma<true>(out, p[m], v + m * kNextTransposed, true);
        wgmma_commit();
      };
      const auto await_keys = [&] { shared.k_full[keys.stage()].wait(keys.parity()); };
      const auto release_keys = [&] {
        shared.k_empty[keys.stage()].arrive_warp(lane);
        keys.advance();
      };
      const auto release_values = [&](Ring values) { shared.v_empty[values.stage()].arrive_warp(lane); };

      /// Scores of the i-th kv tile to probabilities, but for the division by their sum.
      const auto softmax = [&](int i) {
        const int u0 = task.first_key(i);
        if (u0 + kN > mask.key_end(t_first) || u0 < mask.key_begin(t_first + kWarpgroupRows - 1)) {
#pragma unroll
          for (int j = 0; j < kN / 8; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e)
              if (!mask.is_visible(t + (e & 2) * 4, u0 + j * 8 + (lane & 3) * 2 + (e & 1))) scores[j][e] = -kInfinity;
        }
        float shift[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float row_max_new = row_max[half];
#pragma unroll
          for (int j = 0; j < kN / 8; ++j)
            row_max_new = fmaxf(row_max_new, fmaxf(scores[j][2 * half], scores[j][2 * half + 1]));
          row_max_new = quad_max(row_max_new);
          shift[half] = row_max_new == -kInfinity ? 0.0f : row_max_new * scale2;  // a row may see no key so far
          rescale[half] = exp2_fast(row_max[half] * scale2 - shift[half]);
          row_max[half] = row_max_new;
        }
#pragma unroll
        for (int j = 0; j < kN / 8; ++j)
#pragma unroll
          for (int e = 0; e < 4; ++e) scores[j][e] = exp2_fast(scores[j][e] * scale2 - shift[e / 2]);
        warpgroup_fence_operand(scores);
      };
      const auto add_up = [&] {
        float part[2][2] = {};
#pragma unroll
        for (int j = 0; j < kN / 8; ++j)
#pragma unroll
          for (int e = 0; e < 4; ++e) part[e / 2][e & 1] += scores[j][e];
#pragma unroll
        for (int half = 0; half < 2; ++half)
          row_sum[half] = row_sum[half] * rescale[half] + (part[half][0] + part[half][1]);
      };
      /// The i-th kv tile. While its exponentials run, so does the product with the values of the tile before.
      const auto step = [&]<bool kFirst>(int i) {
        const Ring before = keys.previous();
        if constexpr (C::kPingPong) barrier_sync(kTurn + warpgroup, kTurnThreads);
        start_scores();
        if constexpr (!kFirst) start_output(before);
        if constexpr (C::kPingPong) barrier_arrive(kTurn + (warpgroup + 1) % C::kWarpgroups, kTurnThreads);
        wgmma_wait<kFirst ? 0 : 1>();
        warpgroup_fence_operand(scores);
        release_keys();
        softmax(i);
        // A wait that ends a basic block: the compiler would move the exponentials behind the wait for the product.
        if (i + 1 < task.tiles) await_keys();
        add_up();
        if constexpr (!kFirst) {
          wgmma_wait<0>();
          release_values(before);
        }
#pragma unroll
        for (int d = 0; d < C::kD / 8; ++d)
#pragma unroll
          for (int e = 0; e < 4; ++e) out[d][e] *= rescale[e / 2];
#pragma unroll
        for (int m = 0; m < kN / 16; ++m) pack_a(p[m], scores[2 * m], scores[2 * m + 1]);
      };

      if (task.tiles > 0) {
        shared.q_full[queries.stage()].wait(queries.parity());
        await_keys();
        step.template operator()<true>(0);
        for (int i = 1; i < task.tiles; ++i) step.template operator()<false>(i);
        start_output(keys.previous());
        wgmma_wait<0>();
        warpgroup_fence_operand(out);
        release_values(keys.previous());
        shared.q_empty[queries.stage()].arrive_warp(lane);
        queries.advance();
      }

      auto& staged = shared.out[warpgroup];
      if (thread % kWarpgroupThreads == 0) tma_store_wait_read();
      barrier_sync(kOut + warpgroup, kWarpgroupThreads);
      float inverse[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float total = quad_sum(row_sum[half]);
        inverse[half] = total == 0 ? 0.0f : 1 / total;
        if (t + half * 8 < a.T && (lane & 3) == 0)
          a.lse[(static_cast<std::int64_t>(task.row) * a.T + t + half * 8) * a.HQ + task.head] =
              total == 0 ? -kInfinity : row_max[half] * a.scale + __log2f(total) * kLn2;
      }
#pragma unroll
      for (int d = 0; d < C::kD / 8; ++d)
#pragma unroll
        for (int e = 0; e < 4; ++e) out[d][e] *= inverse[e / 2];
      const int id = fresh_thread();
#pragma unroll
      for (int m = 0; m < C::kD / 16; ++m) {
        std::uint32_t packed[4];
        pack_a(packed, out[2 * m], out[2 * m + 1]);
        stmatrix_16x16(staged[m / kSlices], id / kWarpSize % 4 * 16, m % kSlices, packed, id % kWarpSize);
      }
      fence_view_async_shared();
      barrier_sync(kOut + warpgroup, kWarpgroupThreads);
      if (thread % kWarpgroupThreads == 0) {
#pragma unroll
        for (int half = 0; half < C::kHalves; ++half)
          tma_store(a.out, staged[half].data, C::kHalves * task.head + half, task.t0 + warpgroup * kWarpgroupRows,
                    task.row);
      }
    }
    if (thread % kWarpgroupThreads == 0) tma_store_wait_read();
    if (C::kPingPong && warpgroup == 0) barrier_sync(kTurn, kTurnThreads);
  }
#endif
}

}  // namespace ssa::cuda
