// The backward of dense attention for D = 64 on Hopper. Every gradient is summed where its products are computed: tasks
// that own keys (d_k, d_v) and tasks that own queries (d_q) each compute the scores, so that nothing is added in global
// memory and the result does not depend on which block runs when. README.md in this folder says what that costs.
#pragma once

#include "kernels/causal_attention/config.cuh"
#include "kernels/common/tma.cuh"

namespace ssa::cuda {

struct DenseBackwardHopperArgs {
  CUtensorMap q, k, v, d_out;
  float *d_q, *d_k, *d_v;
  const float*
      row_values;  ///< [B, HQ, query tiles, 2, kStepRows]: lse log2(e), +infinity for a row without keys; delta
  int B, T, U, HQ, HK;
  float scale;
  bool accumulate_q, accumulate_kv;

  int key_tiles, query_tiles;  ///< of kOwnRows
  int chunks;                  ///< parts into which the heads of a group are cut for d_k and d_v
  int heads_per_chunk;         ///< ceil(G / chunks)
  int heads_per_task;          ///< query heads of one d_q task
  // Zero at the start of the kernel:
  int* ticket;     ///< [1] tasks handed out so far
  int* keys_done;  ///< [B, HK, key_tiles] chunks added to the tile of d_k and d_v
};

/// Lays lse and delta out by heads, as DenseBackwardHopperArgs::row_values, and zeroes the counters.
template <class C>
__global__ void __launch_bounds__(256) row_values_kernel(float* row_values, const float* lse, const float* delta, int T,
                                                         int HQ, int* counters, int count) {
  constexpr int kRows = C::kStepRows, kHeads = 32;
  __shared__ float tile[2][kHeads][kRows + 1];
  const int t0 = static_cast<int>(blockIdx.x) * kRows, head0 = static_cast<int>(blockIdx.y) * kHeads;
  const std::int64_t row = blockIdx.z;
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < kRows * kHeads; i += 256) {
    const int t = t0 + i / kHeads, head = head0 + i % kHeads;
    const bool inside = t < T && head < HQ;
    const std::int64_t from = inside ? (row * T + t) * HQ + head : 0;
    const float l = inside ? lse[from] : -kInfinity;
    tile[0][i % kHeads][i / kHeads] = l == -kInfinity ? kInfinity : l * kLog2e;
    tile[1][i % kHeads][i / kHeads] = inside ? delta[from] : 0.0f;
  }
  __syncthreads();
  for (int i = thread; i < kRows * kHeads * 2; i += 256) {
    const int which = i / kRows % 2, head = i / kRows / 2;
    if (head0 + head < HQ)
      row_values[(((row * HQ + head0 + head) * gridDim.x + blockIdx.x) * 2 + which) * kRows + i % kRows] =
          tile[which][head][i % kRows];
  }
  const int blocks = static_cast<int>(gridDim.x * gridDim.y * gridDim.z);
  const int block = static_cast<int>((blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x);
  for (int i = block * 256 + thread; i < count; i += blocks * 256) counters[i] = 0;
}

#if SSA_WGMMA_CODE
/// What one block does. Tasks that own keys come first, because they are few and long.
struct DenseBackwardHopperTask {
  bool owns_keys;
  int row, kv_head, own_tile, head_begin, heads;
  int step_first, steps;  ///< tiles of kStepRows to go through: for each head, if the task owns queries

  /// Of the heads of a group, of a task that owns keys.
  static __device__ __forceinline__ int chunk_of(const DenseBackwardHopperArgs& a, int ticket) {
    return ticket / (a.B * a.HK) % a.chunks;
  }
  template <class C, class Visibility>
  __device__ __forceinline__ void take(const DenseBackwardHopperArgs& a, const Visibility& visible, int ticket) {
    const int pairs = a.B * a.HK, key_tasks = a.key_tiles * a.chunks * pairs, G = a.HQ / a.HK;
    owns_keys = ticket < key_tasks;
    if (owns_keys) {
      own_tile = ticket / (a.chunks * pairs);
      const int chunk = chunk_of(a, ticket);
      row = ticket % pairs / a.HK;
      kv_head = ticket % pairs % a.HK;
      head_begin = kv_head * G + chunk * a.heads_per_chunk;
      heads = min(G - chunk * a.heads_per_chunk, a.heads_per_chunk);
      const int u0 = own_tile * C::kOwnRows, u_last = min(a.U, u0 + C::kOwnRows) - 1;
      const int begin = min(a.T, visible.query_begin(u0)), end = min(a.T, visible.query_end(u_last));
      step_first = begin / C::kStepRows;
      steps = begin >= end ? 0 : (end - 1) / C::kStepRows + 1 - step_first;
    } else {
      const int head_parts = (a.HQ + a.heads_per_task - 1) / a.heads_per_task, n = ticket - key_tasks;
      own_tile = a.query_tiles - 1 - n / (a.B * head_parts);
      row = n / head_parts % a.B;
      head_begin = n % head_parts * a.heads_per_task;
      heads = min(a.HQ - head_begin, a.heads_per_task);
      const int t0 = own_tile * C::kOwnRows, t_last = min(a.T, t0 + C::kOwnRows) - 1;
      step_first = visible.key_begin(t0) / C::kStepRows;
      steps = max(0, (min(a.U, visible.key_end(t_last)) + C::kStepRows - 1) / C::kStepRows - step_first);
    }
  }
};

/// One row of float4: stored, or added to what is there.
__device__ __forceinline__ void put(float* to, float4 v, float scale, bool add) {
  v = make_float4(v.x * scale, v.y * scale, v.z * scale, v.w * scale);
  auto* target = reinterpret_cast<float4*>(to);
  if (add) {
    const float4 old = *target;
    v = make_float4(v.x + old.x, v.y + old.y, v.z + old.z, v.w + old.w);
  }
  *target = v;
}
#endif

/// One block per task.
template <class C, class Visibility>
__global__ void __launch_bounds__(C::kThreads, 1)
    dense_backward_hopper_kernel(const __grid_constant__ DenseBackwardHopperArgs a, const Visibility visible) {
#if SSA_WGMMA_CODE
  extern __shared__ __align__(1024) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<typename C::Shared*>(shared_bytes);
  using Ring = Pipeline<C::kStages>;
  constexpr int kSlices = C::kD / 16, kN = C::kStepRows;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarpSize, lane = thread % kWarpSize;
  const int warpgroup = thread / kWarpgroupThreads;

  if (thread == 0) {
    shared.own_full.init(1);
    shared.own_empty.init(C::kWarps * kArrivalsOfWarp);
    for (int i = 0; i < C::kStages; ++i) {
      shared.full[i].init(1);
      shared.empty[i].init(C::kWarps * kArrivalsOfWarp);
    }
    fence_barrier_init();
    shared.ticket = atomicAdd(a.ticket, 1);
  }
  __syncthreads();
  DenseBackwardHopperTask task;
  task.take<C>(a, visible, shared.ticket);
  const int own0 = task.own_tile * C::kOwnRows;

  if (warpgroup == C::kWarpgroups) {
    give_registers<C::kCopyRegisters>();
    if (thread == C::kWarps * kWarpSize) {
      const auto load_own = [&](const CUtensorMap& first, const CUtensorMap& second, int head, int values_bytes) {
        shared.own_full.expect(sizeof(shared.own) + values_bytes);
#pragma unroll
        for (int i = 0; i < C::kOwnRows; i += kBoxRows) {
          load_box(shared.own[0].data + i * C::kD, first, head, own0 + i, task.row, shared.own_full);
          load_box(shared.own[1].data + i * C::kD, second, head, own0 + i, task.row, shared.own_full);
        }
      };
      const auto values_of = [&](int head, int tile) {
        const int tiles = (a.T + kN - 1) / kN;
        return a.row_values + ((static_cast<std::int64_t>(task.row) * a.HQ + head) * tiles + tile) * 2 * kN;
      };
      constexpr int kValuesBytes = 2 * kN * sizeof(float);
      Ring ring;
      const auto load_step = [&](const CUtensorMap& first, const CUtensorMap& second, int head, int tile, bool values) {
        Barrier& full = shared.full[ring.stage()];
        auto& tiles = shared.passing[ring.stage()];
        shared.empty[ring.stage()].wait(ring.parity() ^ 1);
        full.expect(sizeof(tiles) + (values ? kValuesBytes : 0));
        load_box(tiles[0].data, first, head, tile * kN, task.row, full);
        load_box(tiles[1].data, second, head, tile * kN, task.row, full);
        ring.advance();
      };
      if (task.owns_keys) {
        load_own(a.k, a.v, task.kv_head, 0);
        // From the last queries down: neighbouring tasks then read the same ones at about the same time.
        for (int i = task.steps - 1; i >= 0; --i)
          for (int h = 0; h < task.heads; ++h) {
            const int stage = ring.stage(), head = task.head_begin + h;
            load_step(a.q, a.d_out, head, task.step_first + i, true);
            load_bytes(shared.passing_values[stage], values_of(head, task.step_first + i), kValuesBytes,
                       shared.full[stage]);
          }
      } else if (task.steps > 0) {
        constexpr int kParts = C::kOwnRows / kN;
        for (int h = 0; h < task.heads; ++h) {
          const int head = task.head_begin + h, tile0 = own0 / kN, parts = min(kParts, (a.T + kN - 1) / kN - tile0);
          shared.own_empty.wait((h & 1) ^ 1);
          load_own(a.q, a.d_out, head, parts * kValuesBytes);
          load_bytes(shared.own_values, values_of(head, tile0), parts * kValuesBytes, shared.own_full);
          for (int i = 0; i < task.steps; ++i) load_step(a.k, a.v, head / (a.HQ / a.HK), task.step_first + i, false);
        }
      }
    }
  } else {
    take_registers<C::kRegisters>();
    const int row0 = warp * 16, first_own = own0 + warpgroup * kWarpgroupRows;
    const auto own = [&] { return own0 + fresh_thread() / kWarpSize * 16 + (lane >> 2); };
    const float scale2 = a.scale * kLog2e;
    std::uint32_t own_a[kSlices][4], own_b[kSlices][4];
    const auto load_own = [&] {
#pragma unroll
      for (int kk = 0; kk < kSlices; ++kk) {
        load_a(own_a[kk], shared.own[0], row0, kk, lane);
        load_a(own_b[kk], shared.own[1], row0, kk, lane);
      }
    };
    // own rows x kN, over D: a fragment of the own tile and the rows of a passing one.
    const auto start_rows = [&](float(&to)[C::kStepRows / 8][4], const std::uint32_t(&fragment)[C::kD / 16][4],
                                int stage, int which) {
      const std::uint64_t rows = wgmma_operand(shared.passing[stage][which], 0);
#pragma unroll
      for (int kk = 0; kk < kSlices; ++kk) wgmma<false>(to, fragment[kk], rows + kk * kNextAlongRow, kk > 0);
      wgmma_commit();
    };
    // += own rows x D, over kN.
    const auto start_sum = [&](float(&to)[C::kD / 8][4], const std::uint32_t(&fragment)[C::kStepRows / 16][4],
                               int stage, int which) {
      const std::uint64_t rows = wgmma_operand(shared.passing[stage][which], 0);
#pragma unroll
      for (int m = 0; m < kN / 16; ++m) wgmma<true>(to, fragment[m], rows + m * kNextTransposed, true);
    };
    Ring here, before;  // the stages of this step and of the step before
    const auto leave_before = [&] {
      shared.empty[before.stage()].arrive_warp(lane);
      before.advance();
    };
    float scores[kN / 8][4], d_p[kN / 8][4];
    std::uint32_t d_s[kN / 16][4];

    if (task.owns_keys) {
      float d_k[C::kD / 8][4] = {}, d_v[C::kD / 8][4] = {};
      std::uint32_t p[kN / 16][4];
      const int steps = task.steps * task.heads;
      if (steps > 0) {
        shared.own_full.wait(0);
        load_own();
        int tile = task.step_first + task.steps - 1, heads_left = task.heads;
        const auto step = [&]<bool kFirst>(int i) {
          wgmma_fence();
          start_rows(scores, own_a, here.stage(), 0);
          start_rows(d_p, own_b, here.stage(), 1);
          if constexpr (!kFirst) {
            start_sum(d_v, p, before.stage(), 1);
            start_sum(d_k, d_s, before.stage(), 0);
            wgmma_commit();
          }
          float2 lse[kN / 8], delta[kN / 8];
#pragma unroll
          for (int n = 0; n < kN / 8; ++n) {
            const float* values = shared.passing_values[here.stage()] + (lane & 3) * 2 + n * 8;
            lse[n] = *reinterpret_cast<const float2*>(values);
            delta[n] = *reinterpret_cast<const float2*>(values + kN);
          }
          wgmma_wait<kFirst ? 1 : 2>();
          pin(scores);
#pragma unroll
          for (int n = 0; n < kN / 8; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e)
              scores[n][e] = exp2_fast(scores[n][e] * scale2 - ((e & 1) ? lse[n].y : lse[n].x));
          }
          const int t0 = tile * kN;
          if (t0 < visible.query_begin(first_own + kWarpgroupRows - 1) || t0 + kN > visible.query_end(first_own)) {
            const int u = own();
#pragma unroll
            for (int n = 0; n < kN / 8; ++n)
#pragma unroll
              for (int e = 0; e < 4; ++e)
                if (!visible.sees(t0 + n * 8 + (lane & 3) * 2 + (e & 1), u + (e & 2) * 4)) scores[n][e] = 0;
          }
          if (--heads_left == 0) heads_left = task.heads, --tile;
          wgmma_wait<kFirst ? 0 : 1>();
          pin(d_p);
#pragma unroll
          for (int n = 0; n < kN / 8; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) d_p[n][e] = scores[n][e] * (d_p[n][e] - ((e & 1) ? delta[n].y : delta[n].x));
          }
          // A wait that ends a basic block: the compiler would move the arithmetic behind that for the products.
          pin(scores), pin(d_p);
          const Ring after = here.next();
          if (i + 1 < steps) shared.full[after.stage()].wait(after.parity());
          if constexpr (!kFirst) {
            wgmma_wait<0>();
            leave_before();
          }
          here = after;
#pragma unroll
          for (int m = 0; m < kN / 16; ++m) {
            pack_a(p[m], scores[2 * m], scores[2 * m + 1]);
            pack_a(d_s[m], d_p[2 * m], d_p[2 * m + 1]);
          }
        };
        shared.full[here.stage()].wait(here.parity());
        step.template operator()<true>(0);
        for (int i = 1; i < steps; ++i) step.template operator()<false>(i);
        wgmma_fence();
        start_sum(d_v, p, before.stage(), 1);
        start_sum(d_k, d_s, before.stage(), 0);
        wgmma_commit();
        wgmma_wait<0>();
        pin(d_k), pin(d_v);
      }
      const int chunk = DenseBackwardHopperTask::chunk_of(a, shared.ticket);
      // Chunks of a group's heads add to the same keys in their order.
      int* done =
          a.keys_done + (static_cast<std::int64_t>(task.row) * a.HK + task.kv_head) * a.key_tiles + task.own_tile;
      if (chunk > 0) {
        if (thread == 0) wait_for(done, chunk);
        barrier_sync(1, C::kWarps * kWarpSize);
      }
      const bool add = a.accumulate_kv || chunk > 0;
#pragma unroll
      for (int d = 0; d < C::kD / 8; ++d) {
        const RowOfFour k_four = row_of_four(d_k[d], lane), v_four = row_of_four(d_v[d], lane);
        const int u = own0 + row0 + k_four.row;
        if (u >= a.U) continue;
        const std::int64_t offset =
            ((static_cast<std::int64_t>(task.row) * a.U + u) * a.HK + task.kv_head) * C::kD + d * 8 + k_four.col;
        put(a.d_k + offset, k_four.values, a.scale, add);
        put(a.d_v + offset, v_four.values, 1, add);
      }
      if (chunk + 1 < a.chunks) {
        barrier_sync(1, C::kWarps * kWarpSize);
        if (thread == 0) announce(done, chunk + 1);
      }
    } else {
      for (int h = 0; h < task.heads; ++h) {
        float d_q[C::kD / 8][4] = {}, next_scores[kN / 8][4];
        if (task.steps > 0) {
          shared.own_full.wait(h & 1);
          load_own();
          const float* values = shared.own_values + warpgroup * 2 * kN + warp % 4 * 16 + (lane >> 2);
          const float lse[2] = {values[0], values[8]}, delta[2] = {values[kN], values[kN + 8]};
          shared.own_empty.arrive_warp(lane);
          const auto step = [&]<bool kFirst, bool kLast>(float(&now)[C::kStepRows / 8][4],
                                                         float(&next)[C::kStepRows / 8][4], int i) {
            wgmma_fence();
            start_rows(d_p, own_b, here.stage(), 1);
            const Ring after = here.next();
            if constexpr (!kLast) start_rows(next, own_a, after.stage(), 0);
            if constexpr (!kFirst) {
              start_sum(d_q, d_s, before.stage(), 0);
              wgmma_commit();
            }
#pragma unroll
            for (int n = 0; n < kN / 8; ++n)
#pragma unroll
              for (int e = 0; e < 4; ++e) now[n][e] = exp2_fast(now[n][e] * scale2 - lse[e / 2]);
            const int u0 = (task.step_first + i) * kN;
            if (u0 + kN > visible.key_end(first_own) || u0 < visible.key_begin(first_own + kWarpgroupRows - 1)) {
              const int t = own();
#pragma unroll
              for (int n = 0; n < kN / 8; ++n)
#pragma unroll
                for (int e = 0; e < 4; ++e)
                  if (!visible.sees(t + (e & 2) * 4, u0 + n * 8 + (lane & 3) * 2 + (e & 1))) now[n][e] = 0;
            }
            wgmma_wait<(kLast ? 0 : 1) + (kFirst ? 0 : 1)>();  // d_p
            pin(d_p);
#pragma unroll
            for (int n = 0; n < kN / 8; ++n)
#pragma unroll
              for (int e = 0; e < 4; ++e) d_p[n][e] = now[n][e] * (d_p[n][e] - delta[e / 2]);
            pin(d_p);
            const Ring later = after.next();
            if (i + 2 < task.steps) shared.full[later.stage()].wait(later.parity());
            wgmma_wait<0>();
            if constexpr (!kFirst) leave_before();
            here = after;
#pragma unroll
            for (int m = 0; m < kN / 16; ++m) pack_a(d_s[m], d_p[2 * m], d_p[2 * m + 1]);
          };
          shared.full[here.stage()].wait(here.parity());
          wgmma_fence();
          start_rows(scores, own_a, here.stage(), 0);
          wgmma_wait<0>();
          if (task.steps > 1) {
            const Ring after = here.next();
            shared.full[after.stage()].wait(after.parity());
          }
          alternate(task.steps, scores, next_scores, step);
          wgmma_fence();
          start_sum(d_q, d_s, before.stage(), 0);
          wgmma_commit();
          wgmma_wait<0>();
          pin(d_q);
          leave_before();
        } else if (a.accumulate_q) {
          continue;
        }
#pragma unroll
        for (int d = 0; d < C::kD / 8; ++d) {
          const RowOfFour four = row_of_four(d_q[d], lane);
          const int t = own0 + row0 + four.row;
          if (t >= a.T) continue;
          put(a.d_q + ((static_cast<std::int64_t>(task.row) * a.T + t) * a.HQ + task.head_begin + h) * C::kD + d * 8 +
                  four.col,
              four.values, a.scale, a.accumulate_q);
        }
      }
    }
  }
#endif
}

}  // namespace ssa::cuda
