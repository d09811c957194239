// The forward of dense attention for D = 64 on Hopper: a warpgroup of copies feeds warpgroups that own 64 query rows
// each, and the scores of the next key tile are computed while the exponentials of this one are taken. README.md in
// this folder explains the schedule.
#pragma once

#include "kernels/causal_attention/config.cuh"
#include "kernels/common/tma.cuh"

namespace ssa::cuda {

struct DenseForwardHopperArgs {
  CUtensorMap q, k, v, out;
  float* lse;
  int B, T, U, HQ, HK;
  float scale;
};

#if SSA_WGMMA_CODE
/// A query tile of one head, and the key tiles that it sees.
template <class C>
struct DenseForwardTask {
  int row, head, kv_head, t0, tile_first, tiles;

  /// The n-th task of this cluster: the longest tasks come first, and in rounds that go to and fro over the clusters, so
  /// that all have the same work.
  template <class Visibility>
  __device__ __forceinline__ bool take(const DenseForwardHopperArgs& a, const Visibility& visible, int n) {
    const int clusters = static_cast<int>(gridDim.x) / C::kCluster, cluster = static_cast<int>(blockIdx.x) / C::kCluster;
    const int heads = a.HQ / C::kCluster, query_tiles = (a.T + C::kQueries - 1) / C::kQueries;
    const int rank = n * clusters + (n % 2 == 0 ? cluster : clusters - 1 - cluster);
    if (n * clusters >= query_tiles * a.B * heads) return false;
    const int tile = rank / (a.B * heads), in_tile = rank % (a.B * heads);
    row = in_tile / heads;
    head = in_tile % heads * C::kCluster + static_cast<int>(blockIdx.x) % C::kCluster;
    kv_head = head / (a.HQ / a.HK);
    t0 = (query_tiles - 1 - tile) * C::kQueries;
    tile_first = visible.key_begin(t0) / C::kKeys;
    tiles = (min(a.U, visible.key_end(min(a.T, t0 + C::kQueries) - 1)) + C::kKeys - 1) / C::kKeys - tile_first;
    if (tile >= query_tiles) tiles = -1;
    return true;
  }
  /// Of the i-th key tile: they are taken from the last to the first.
  __device__ __forceinline__ int first_key(int i) const { return (tile_first + tiles - 1 - i) * C::kKeys; }
};

/// The block's part of one key tile: with clusters, each block loads its share for all.
template <class C, class TileType>
__device__ __forceinline__ void load_keys(TileType& to, const CUtensorMap& map, int kv_head, int u0, int row,
                                          Barrier& full) {
  full.expect(sizeof(TileType));
  constexpr int kShare = C::kKeys / C::kCluster;
  static_assert(kShare % kBoxRows == 0);
  const int begin = C::kCluster == 1 ? 0 : block_in_cluster() * kShare;
#pragma unroll
  for (int u = begin; u < begin + kShare; u += kBoxRows)
    if constexpr (C::kCluster == 1)
      load_box(to.data + u * C::kD, map, kv_head, u0 + u, row, full);
    else
      load_box(to.data + u * C::kD, map, kv_head, u0 + u, row, full, (1 << C::kCluster) - 1);
}

/// Lane l tells block l of the cluster that this warp has left a stage.
template <class C>
__device__ __forceinline__ void leave(Barrier& empty, int lane) {
  if constexpr (C::kCluster == 1) {
    if (lane == 0) empty.arrive();
  } else {
    if (lane < C::kCluster) empty.arrive_at(lane);
  }
}
#endif

template <class C, class Visibility>
__global__ void __launch_bounds__(C::kThreads, 1) __cluster_dims__(C::kCluster, 1, 1)
    dense_forward_hopper_kernel(const __grid_constant__ DenseForwardHopperArgs a, const Visibility visible) {
#if SSA_WGMMA_CODE
  extern __shared__ __align__(1024) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<typename C::Shared*>(shared_bytes);
  using Ring = Pipeline<C::kStages>;
  using QueryRing = Pipeline<C::kQueryStages>;
  constexpr int kSlices = C::kD / 16, kN = C::kKeys;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarpSize;
  const int warpgroup = thread / kWarpgroupThreads;

  if (thread == 0) {
    for (int i = 0; i < C::kQueryStages; ++i) {
      shared.q_full[i].init(1);
      shared.q_empty[i].init(C::kWarps);
    }
    for (Barrier& turn : shared.turn) turn.init(1);
    for (int i = 0; i < C::kStages; ++i) {
      shared.k_full[i].init(1);
      shared.v_full[i].init(1);
      shared.k_empty[i].init(C::kWarps * C::kCluster);
      shared.v_empty[i].init(C::kWarps * C::kCluster);
    }
    fence_barrier_init();
  }
  if constexpr (C::kCluster == 1)
    __syncthreads();
  else
    cluster_sync();

  DenseForwardTask<C> task;
  if (warpgroup == C::kWarpgroups) {
    give_registers<C::kCopyRegisters>();
    if (thread == C::kWarps * kWarpSize) {
      prefetch(a.q), prefetch(a.k), prefetch(a.v), prefetch(a.out);
      Ring ring;
      QueryRing queries;
      for (int n = 0; task.take(a, visible, n); ++n) {
        if (task.tiles <= 0) continue;
        auto& q = shared.q[queries.stage];
        shared.q_empty[queries.stage].wait(queries.parity ^ 1);
        shared.q_full[queries.stage].expect(sizeof(q));
#pragma unroll
        for (int t = 0; t < C::kQueries; t += kBoxRows)
          load_box(q.data + t * C::kD, a.q, task.head, task.t0 + t, task.row, shared.q_full[queries.stage]);
        queries.advance();
        for (int i = 0; i < task.tiles; ++i, ring.advance()) {
          shared.k_empty[ring.stage].wait(ring.parity ^ 1);
          load_keys<C>(shared.k[ring.stage], a.k, task.kv_head, task.first_key(i), task.row, shared.k_full[ring.stage]);
          shared.v_empty[ring.stage].wait(ring.parity ^ 1);
          load_keys<C>(shared.v[ring.stage], a.v, task.kv_head, task.first_key(i), task.row, shared.v_full[ring.stage]);
        }
      }
    }
  } else {
    take_registers<C::kRegisters>();
    const int warp = thread / kWarpSize, row0 = warp * 16;
    const float scale2 = a.scale * kLog2e;
    Ring keys, values;
    QueryRing queries;
    constexpr int kOut = 1;  // named barriers
    // Warps of the same quarter of an SM take turns at its exponential unit.
    Barrier &my_turn = shared.turn[warp], &next_turn = shared.turn[(warp + 4) % C::kWarps];
    Pipeline<1> turn;
    if (C::kTakeTurns && warpgroup == C::kWarpgroups - 1 && lane == 0) next_turn.arrive();

    for (int n = 0; task.take(a, visible, n); ++n) {
      if (task.tiles < 0) continue;
      float out[C::kD / 8][4] = {};
      float best[2] = {-kInfinity, -kInfinity}, sum[2] = {};  // of rows lane / 4 and + 8; the sum is this lane's part
      std::uint32_t p[kN / 16][4];
      const int t = task.t0 + row0 + (lane >> 2);

      if (task.tiles > 0) {
        const std::uint64_t q_rows = wgmma_operand(shared.q[queries.stage], warpgroup * kWarpgroupRows);
        shared.q_full[queries.stage].wait(queries.parity);

        const auto start_scores = [&](float(&scores)[C::kKeys / 8][4]) {
          const std::uint64_t rows = wgmma_operand(shared.k[keys.stage], 0);
          wgmma_fence();
#pragma unroll
          for (int kk = 0; kk < kSlices; ++kk) wgmma<false, false>(scores, q_rows + kk * kNextAlongRow, rows + kk * kNextAlongRow, kk > 0);
          wgmma_commit();
        };
        const auto leave_keys = [&] {
          leave<C>(shared.k_empty[keys.stage], lane);
          keys.advance();
        };
        const auto start_output = [&] {
          shared.v_full[values.stage].wait(values.parity);
          const std::uint64_t rows = wgmma_operand(shared.v[values.stage], 0);
          wgmma_fence();
#pragma unroll
          for (int m = 0; m < C::kKeys / 16; ++m) wgmma<true>(out, p[m], rows + m * kNextTransposed, true);
          wgmma_commit();
        };
        const auto leave_values = [&] {
          leave<C>(shared.v_empty[values.stage], lane);
          values.advance();
        };
        /// The i-th key tile: its scores are there, its values are still to come. Beside the exponentials run the
        /// products with the values of the tile before, and the scores of the next.
        const auto step = [&]<bool kFirst, bool kLast>(float(&scores)[C::kKeys / 8][4], float(&next)[C::kKeys / 8][4], int i) {
          if constexpr (!kLast) start_scores(next);
          if constexpr (!kFirst) start_output();
          const int u0 = task.first_key(i);
          if (u0 + kN > visible.key_end(task.t0 + warpgroup * kWarpgroupRows) ||
              u0 < visible.key_begin(task.t0 + warpgroup * kWarpgroupRows + kWarpgroupRows - 1)) {
#pragma unroll
            for (int j = 0; j < kN / 8; ++j)
#pragma unroll
              for (int e = 0; e < 4; ++e)
                if (!visible.sees(t + (e & 2) * 4, u0 + j * 8 + (lane & 3) * 2 + (e & 1))) scores[j][e] = -kInfinity;
          }
          float correction[2], shift[2];
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            float top = best[half];
#pragma unroll
            for (int j = 0; j < kN / 8; ++j) top = fmaxf(top, fmaxf(scores[j][2 * half], scores[j][2 * half + 1]));
            top = quad_max(top);
            shift[half] = top == -kInfinity ? 0.0f : top * scale2;  // a row may see no key so far
            correction[half] = exp2_fast(best[half] * scale2 - shift[half]);
            best[half] = top;
          }
          if constexpr (C::kTakeTurns) {
            my_turn.wait(turn.parity);
            turn.advance();
            pin(scores);
          }
          float part[2][2] = {};
#pragma unroll
          for (int j = 0; j < kN / 8; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              const float x = scores[j][e] * scale2 - shift[e / 2];
              scores[j][e] = C::kPolynomialEvery > 0 && (j * 4 + e) % (C::kPolynomialEvery + (C::kPolynomialEvery == 0)) == 1
                                 ? exp2_polynomial(x)
                                 : exp2_fast(x);
              part[e / 2][e & 1] += scores[j][e];
            }
#pragma unroll
          for (int half = 0; half < 2; ++half) sum[half] = sum[half] * correction[half] + (part[half][0] + part[half][1]);
          // A wait that ends a basic block: the compiler would move the exponentials behind that for the products.
          pin(scores);
          Ring after = keys;
          after.advance();
          if (i + 2 < task.tiles) shared.k_full[after.stage].wait(after.parity);
          if (C::kTakeTurns && lane == 0) next_turn.arrive();
          wgmma_wait<0>();
          if constexpr (!kLast) leave_keys();
          if constexpr (!kFirst) leave_values();
#pragma unroll
          for (int d = 0; d < C::kD / 8; ++d)
#pragma unroll
            for (int e = 0; e < 4; ++e) out[d][e] *= correction[e / 2];
#pragma unroll
          for (int m = 0; m < kN / 16; ++m) pack_a(p[m], scores[2 * m], scores[2 * m + 1]);
        };

        float even[kN / 8][4], odd[kN / 8][4];
        shared.k_full[keys.stage].wait(keys.parity);
        start_scores(even);
        wgmma_wait<0>();
        leave_keys();
        if (task.tiles > 1) shared.k_full[keys.stage].wait(keys.parity);
        alternate(task.tiles, even, odd, step);
        if (lane == 0) shared.q_empty[queries.stage].arrive();
        queries.advance();
        start_output();
        wgmma_wait<0>();
        pin(out);
        leave_values();
      }

      auto& staged = shared.out[warpgroup];
      if (thread % kWarpgroupThreads == 0) wait_stored();
      barrier_sync(kOut + warpgroup, kWarpgroupThreads);
      float inverse[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float total = quad_sum(sum[half]);
        inverse[half] = total == 0 ? 0.0f : 1 / total;
        if (t + half * 8 < a.T && (lane & 3) == 0)
          a.lse[(static_cast<std::int64_t>(task.row) * a.T + t + half * 8) * a.HQ + task.head] =
              total == 0 ? -kInfinity : best[half] * a.scale + __log2f(total) * kLn2;
      }
#pragma unroll
      for (int d = 0; d < C::kD / 8; ++d)
#pragma unroll
        for (int e = 0; e < 4; ++e) out[d][e] *= inverse[e / 2];
#pragma unroll
      for (int m = 0; m < C::kD / 16; ++m) {
        std::uint32_t packed[4];
        pack_a(packed, out[2 * m], out[2 * m + 1]);
        store_fragment(staged, warp % 4 * 16, m, packed, lane);
      }
      fence_shared_for_wgmma();
      barrier_sync(kOut + warpgroup, kWarpgroupThreads);
      if (thread % kWarpgroupThreads == 0)
        store_box(a.out, staged.data, task.head, task.t0 + warpgroup * kWarpgroupRows, task.row);
    }
    if (thread % kWarpgroupThreads == 0) wait_stored();
  }
  if constexpr (C::kCluster > 1) cluster_sync();  // a block's shared memory outlives what the others send to it
#endif
}

}  // namespace ssa::cuda
