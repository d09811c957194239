// The forward of dense attention on Hopper: a producer warpgroup loads for warpgroups that own 64 query rows each.
// While one takes exponentials, the products of the others run. README.md in this directory explains the schedule.
#pragma once

#include <type_traits>

#include "config.cuh"
#include "kernels/common/ptx/tma.cuh"
#include "mask.cuh"

namespace ssa::cuda {

struct FwdHopperArgs {
  CUtensorMap q, k, v, out;
  DenseForwardArgs in;
  float scale_log2;              ///< scale log2(e)
  int heads, log2_heads;         ///< query heads of one key/value head that share a q tile: row = token * heads + head
  int q_tiles, groups;           ///< groups of `heads` heads, over all sequences
  int section_groups, sections;  ///< whose keys and values stay in L2 together
  int tasks;                     ///< a task: a q tile of a group
  int* ticket;                   ///< [1] with documents: tasks handed out after the first of each CTA, 0 at the start
};

#if SSA_WGMMA_CODE
/// The rank-th task. Within a section the longest come first, or last in every second section, so that the tasks of one
/// round are about equally long. The last section ends with the shortest.
template <class C, class Mask>
__device__ __forceinline__ FwdHopperTask fwd_hopper_task(const FwdHopperArgs& a, const Mask& masks, int rank) {
  const int section_tasks = a.section_groups * a.q_tiles, section = rank / section_tasks;
  const int first_group = section * a.section_groups, groups = min(a.section_groups, a.groups - first_group);
  const int in_section = rank - section * section_tasks, group = first_group + in_section % groups;
  const int tile = (a.sections - section) % 2 == 1 ? a.q_tiles - 1 - in_section / groups : in_section / groups;
  const int groups_per_row = a.in.HQ >> a.log2_heads, tokens = C::kBlockM >> a.log2_heads;
  FwdHopperTask task;
  task.row = group / groups_per_row;
  const auto& mask = of_sequence(masks, task.row);
  task.head = group % groups_per_row << a.log2_heads;
  task.t0 = tile * tokens;
  const int tile_first = mask.key_begin(task.t0) / C::kBlockN;
  const int u_end = min(a.in.U, mask.key_end(min(a.in.T, task.t0 + tokens) - 1));
  task.tiles = (u_end + C::kBlockN - 1) / C::kBlockN - tile_first;
  task.u_last = (tile_first + task.tiles - 1) * C::kBlockN;
  return task;
}

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
    fwd_hopper_kernel(const __grid_constant__ FwdHopperArgs a, const Mask masks) {
#if SSA_WGMMA_CODE
  extern __shared__ __align__(1024) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<typename C::Shared*>(shared_bytes);
  using Ring = PipelineState<C::kStages>;
  using QueryRing = PipelineState<C::kQueryStages>;
  constexpr int kSlices = C::kHalfD / 16, kN = C::kBlockN;
  // A warpgroup's first token is even, so that a mask cuts the kv tile that ends with its key: every row has a maximum
  // before the first tile that no mask cuts.
  static_assert(kWarpgroupRows / C::kMaxHeads % 2 == 0 && kN % 2 == 0);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarpSize;
  const int warpgroup = uniform(thread / kWarpgroupThreads);
  const int warpgroup_tokens = kWarpgroupRows >> a.log2_heads;

  if (thread == 0) {
    for (int i = 0; i < C::kQueryStages; ++i) {
      shared.q_full[i].init(1);
      shared.q_empty[i].init(C::kWarps * kArrivalsOfWarp);
      if constexpr (kIsInDocuments<Mask>) shared.task_full[i].init(1);
    }
    for (int i = 0; i < C::kStages; ++i) {
      shared.k_full[i].init(1);
      shared.v_full[i].init(1);
      shared.k_empty[i].init(C::kWarps * kArrivalsOfWarp);
      shared.v_empty[i].init(C::kWarps * kArrivalsOfWarp);
    }
    fence_barrier_init();
  }
  for (int i = thread; i < C::kFlagWords; i += C::kThreads) shared.too_large[i] = 0;
  __syncthreads();

  if (warpgroup == C::kWarpgroups) {
    warpgroup_reg_dealloc<C::kProducerRegisters>();
    const int ctas = static_cast<int>(gridDim.x), cta = static_cast<int>(blockIdx.x);
    QueryRing queries;
    // After the last task, those again in which a sum got too large.
    const auto wait_for_tasks = [&] {
      for (int i = 0; i < C::kQueryStages; ++i, queries.advance())
        shared.q_empty[queries.stage()].wait(queries.parity() ^ 1);
      queries.passed -= C::kQueryStages;
    };
    const auto is_too_large = [&](int n) { return (shared.too_large[n / 32 % C::kFlagWords] >> n % 32 & 1) != 0; };
    if (thread == C::kWarps * kWarpSize) {
      prefetch_tensormap(a.q), prefetch_tensormap(a.k), prefetch_tensormap(a.v), prefetch_tensormap(a.out);
      Ring ring;
      const auto load = [&](const FwdHopperTask& task) {
        const int stage = queries.stage(), tiles = task.tiles;
        shared.q_full[stage].arrive_expect_tx(sizeof(shared.q[stage]));
#pragma unroll
        for (int half = 0; half < C::kHalves; ++half)
#pragma unroll
          for (int i = 0; i < C::kWarpgroups; ++i)
            tma_load(shared.q[stage][half].data + i * kWarpgroupRows * C::kHalfD, a.q, half, task.head,
                     task.t0 + i * warpgroup_tokens, task.row, shared.q_full[stage]);
        queries.advance();
        int head_of_task = 0;
        if constexpr (!kIsInDocuments<Mask>) head_of_task = task.head / (a.in.HQ / a.in.HK);
        const int& kv_head = kIsInDocuments<Mask> ? shared.kv_head[stage] : head_of_task;
        const auto load_keys = [&](Ring at, int i) {
          shared.k_empty[at.stage()].wait(at.parity() ^ 1);
          load_head(shared.k[at.stage()], a.k, kv_head, task.first_key<C>(i), task.row, shared.k_full[at.stage()]);
        };
        const auto load_values = [&](Ring at, int i) {
          shared.v_empty[at.stage()].wait(at.parity() ^ 1);
          load_head(shared.v[at.stage()], a.v, kv_head, task.first_key<C>(i), task.row, shared.v_full[at.stage()]);
        };
        for (int i = 0; i < tiles; ++i, ring.advance()) {
          load_keys(ring, i);
          if constexpr (!C::kKeysAhead)
            load_values(ring, i);
          else if (i > 0)
            load_values(ring.previous(), i - 1);
        }
        if constexpr (C::kKeysAhead) load_values(ring.previous(), tiles - 1);
      };
      if constexpr (kIsInDocuments<Mask>) {
        for (;;) {
          const int stage = queries.stage();
          shared.task_full[stage].wait(queries.parity());
          const FwdHopperTask& task = shared.task[stage];  // not copied, because registers are scarce
          if (task.tiles == 0) break;
          load(task);
        }
      } else {
        // Every second round of tasks runs over the CTAs backward, so that all have the same work.
        const auto load_task = [&](int n, bool again) {
          const int rank = n * ctas + (n % 2 == 0 ? cta : ctas - 1 - cta);
          if (rank >= a.tasks) return;
          FwdHopperTask task = fwd_hopper_task<C>(a, masks, rank);
          task.number = n, task.again = again;
          const int stage = queries.stage();
          shared.q_empty[stage].wait(queries.parity() ^ 1);
          shared.task[stage] = task;
          load(task);
        };
        const int rounds = (a.tasks + ctas - 1) / ctas;
        for (int n = 0; n < rounds; ++n) load_task(n, false);
        wait_for_tasks();
        for (int n = 0; n < rounds; ++n)
          if (is_too_large(n)) load_task(n, true);
        shared.q_empty[queries.stage()].wait(queries.parity() ^ 1);
        shared.task[queries.stage()].tiles = 0;
      }
      mbarrier_arrive(shared.q_full[queries.stage()].address());
    } else if (kIsInDocuments<Mask> && thread == (C::kWarps + 1) * kWarpSize) {
      // How long a task takes depends on the documents, so the CTA takes the next one when it has the time. This warp
      // works it out ahead of the loading one, and waits for what it reads from global memory.
      if constexpr (kIsInDocuments<Mask>) {
        const auto pass_on = [&](int rank, int n, bool again) {
          FwdHopperTask task = fwd_hopper_task<C>(a, masks, rank);
          task.number = n, task.again = again;
          const auto& mask = of_sequence(masks, task.row);
          const int t_last = task.t0 + (C::kBlockM >> a.log2_heads) - 1, stage = queries.stage();
          const int2 pieces = make_int2(mask.piece_begin(task.t0), mask.piece_begin(t_last));
          shared.q_empty[stage].wait(queries.parity() ^ 1);
          shared.task[stage] = task, shared.pieces[stage] = pieces;
          shared.kv_head[stage] = task.head / (a.in.HQ / a.in.HK);
          mbarrier_arrive(shared.task_full[stage].address());
          queries.advance();
        };
        for (int rank = cta; rank < a.tasks; rank = shared.ranks[C::kRanks]) {
          int taken = 0;
          do {
            shared.ranks[taken] = rank;
            pass_on(rank, taken++, false);
            rank = ctas + atomicAdd(a.ticket, 1);
          } while (rank < a.tasks && taken < C::kRanks);
          shared.ranks[C::kRanks] = rank;
          wait_for_tasks();
          for (int n = 0; n < taken; ++n)
            if (is_too_large(n)) pass_on(shared.ranks[n], n, true);
          for (int i = 0; i < C::kRanks / 32; ++i) shared.too_large[i] = 0;
        }
        shared.q_empty[queries.stage()].wait(queries.parity() ^ 1);
        shared.task[queries.stage()].tiles = 0;
        mbarrier_arrive(shared.task_full[queries.stage()].address());
      }
    }
  } else {
    warpgroup_reg_alloc<C::kRegisters>();
    Ring keys;
    QueryRing queries;
    constexpr int kOut = static_cast<int>(NamedBarrier::kWarpgroup0), kTurn = static_cast<int>(NamedBarrier::kTurn0);
    constexpr int kTurnThreads = 2 * kWarpgroupThreads;
    if (warpgroup == C::kWarpgroups - 1) barrier_arrive(kTurn, kTurnThreads);

    for (;; queries.advance()) {
      shared.q_full[queries.stage()].wait(queries.parity());
      FwdHopperTask task = shared.task[queries.stage()];
      task.tiles = uniform(task.tiles);
      if (task.tiles == 0) break;
      task.row = uniform(task.row), task.head = uniform(task.head);
      task.t0 = uniform(task.t0), task.u_last = uniform(task.u_last);
      const auto& mask = base_of(masks);
      const bool again = uniform(task.again) != 0;
      const int t_first = task.t0 + warpgroup * warpgroup_tokens, t_last = t_first + warpgroup_tokens - 1;
      if constexpr (kIsInDocuments<Mask>) {  // each warp for its own rows; memory is read only for several pieces
        const int2 pieces = shared.pieces[queries.stage()];
        const int row = thread / kWarpSize % 4 * 16 + lane % 16, t = t_first + (row >> a.log2_heads);
        shared.key_begin[warpgroup * kWarpgroupRows + row] =
            pieces.x == pieces.y ? max(mask.key_begin(t), pieces.x) : of_sequence(masks, task.row).key_begin(t);
        __syncwarp();
      }
      const std::uint64_t q = wgmma_operand(static_cast<std::uint32_t>(uniform(
          static_cast<int>(shared_address(shared.q[queries.stage()][0].data)) + warpgroup * kWarpgroupRows * 128)));

      float out[C::kD / 8][4], scores[kN / 8][4];
      std::uint32_t p[kN / 16][4];
      // Of the lane's two rows: the maximum over the kv tiles that a mask cuts, and this lane's part of the sum.
      float row_max[2] = {-kInfinity, -kInfinity}, row_sum[2] = {};

      const auto start_scores = [&] {
        wgmma_fence();
#pragma unroll
        for (int half = 0; half < C::kHalves; ++half) {
          const std::uint64_t k = wgmma_operand(shared.k[keys.stage()][half], 0);
#pragma unroll
          for (int kk = 0; kk < kSlices; ++kk)
            wgmma<false>(scores, q + half * (sizeof(shared.q[0][0]) >> 4) + kk * kNextAlongRow, k + kk * kNextAlongRow,
                         half + kk > 0);
        }
        wgmma_commit();
      };
      const auto start_output = [&](Ring values, bool add) {
        shared.v_full[values.stage()].wait(values.parity());
        const std::uint64_t v = wgmma_operand<C::kD>(shared.v[values.stage()][0], 0);
        wgmma_fence();
#pragma unroll
        for (int m = 0; m < kN / 16; ++m) wgmma<true>(out, p[m], v + m * kNextTransposed, m > 0 || add);
        wgmma_commit();
      };
      const auto apply_mask = [&](int u0) {
        const int row = fresh_thread() % kWarpgroupThreads / kWarpSize * 16 + lane / 4;
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int t = t_first + ((row + (e & 2) * 4) >> a.log2_heads);
          const auto visible = [&] {
            if constexpr (kIsInDocuments<Mask>)
              return Indices(shared.key_begin[warpgroup * kWarpgroupRows + row + (e & 2) * 4], mask.key_end(t));
            else
              return keys_of(mask, t);
          }();
#pragma unroll
          for (int j = 0; j < kN / 8; ++j)
            if (!visible.contains(u0 + j * 8 + (lane & 3) * 2 + (e & 1))) scores[j][e] = -kInfinity;
        }
      };

      /// The i-th kv tile. While its exponentials run, so do the products of the other warpgroups.
      const auto step = [&]<bool kFirst, bool kMasked>(int i) {
        const Ring before = keys.previous();
        shared.k_full[keys.stage()].wait(keys.parity());
        barrier_sync(kTurn + warpgroup, kTurnThreads);
        start_scores();
        if constexpr (!kFirst) start_output(before, i > 1);
        barrier_arrive(kTurn + (warpgroup == C::kWarpgroups - 1 ? 0 : warpgroup + 1), kTurnThreads);
        wgmma_wait<kFirst ? 0 : 1>();
        warpgroup_fence_operand(scores);
        shared.k_empty[keys.stage()].arrive_warp(lane);
        keys.advance();

        float shift[2], rescale[2];
        if constexpr (kMasked) apply_mask(task.first_key<C>(i));
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          if constexpr (kMasked) {
            float row_max_new = row_max[half];
#pragma unroll
            for (int j = 0; j < kN / 8; ++j)
              row_max_new = fmaxf(row_max_new, fmaxf(scores[j][2 * half], scores[j][2 * half + 1]));
            row_max_new = quad_max(row_max_new);
            shift[half] = row_max_new == -kInfinity ? 0.0f : row_max_new * a.scale_log2;  // a row may see no key so far
            rescale[half] = exp2_fast(row_max[half] * a.scale_log2 - shift[half]);
            row_max[half] = row_max_new;
          } else {
            shift[half] = row_max[half] * a.scale_log2;
          }
        }
        float part[2][2];
        const auto exponentials = [&](int j) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            scores[j][e] = exp2_fast(scores[j][e] * a.scale_log2 - shift[e / 2]);
            part[e / 2][e & 1] = j == 0 ? scores[j][e] : part[e / 2][e & 1] + scores[j][e];
          }
        };
        // The product has mostly ended after the first few exponentials; packing then goes along with the others.
        constexpr int kBeforeWait = 2;
#pragma unroll
        for (int j = 0; j < kBeforeWait; ++j) exponentials(j);
        if constexpr (!kFirst) {
          wgmma_wait<0>();
          warpgroup_fence_operand(out);
          shared.v_empty[before.stage()].arrive_warp(lane);
          if constexpr (kMasked) {
#pragma unroll
            for (int d = 0; d < C::kD / 8; ++d)
#pragma unroll
              for (int e = 0; e < 4; ++e) out[d][e] *= rescale[e / 2];
#pragma unroll
            for (int half = 0; half < 2; ++half)
              row_sum[half] = row_sum[half] < C::kMaxSum ? row_sum[half] * rescale[half] : kInfinity;
          }
        }
#pragma unroll
        for (int j = kBeforeWait; j < kN / 8; ++j) exponentials(j);
#pragma unroll
        for (int m = 0; m < kN / 16; ++m) pack_a(p[m], scores[2 * m], scores[2 * m + 1]);
#pragma unroll
        for (int half = 0; half < 2; ++half) row_sum[half] += part[half][0] + part[half][1];
      };

      // Tiles [masked, whole) are visible to all rows and reuse the maximum, unless the task is done again. (The
      // compiler keeps the ring in uniform registers only if the ends of these loops are uniform.)
      const int cut = again ? task.tiles : max(1, (task.u_last + 2 * kN - 1 - mask.key_end(t_first)) / kN);
      const int masked = min(task.tiles, cut);
      const auto last_key_begin = [&] {
        if constexpr (kIsInDocuments<Mask>)
          return max(mask.key_begin(t_last), shared.pieces[queries.stage()].y);
        else
          return mask.key_begin(t_last);
      };
      const int whole = min(task.tiles, (task.u_last - last_key_begin()) / kN + 1);
      step.template operator()<true, true>(0);
      int i = 1;
      for (; i < uniform(masked); ++i) step.template operator()<false, true>(i);
      for (; i < uniform(whole); ++i) step.template operator()<false, false>(i);
      if constexpr (Mask::kLowerBound)
        for (; i < task.tiles; ++i) step.template operator()<false, true>(i);
      start_output(keys.previous(), task.tiles > 1);
      wgmma_wait<0>();
      warpgroup_fence_operand(out);
      shared.v_empty[keys.previous().stage()].arrive_warp(lane);

      auto& staged = shared.out[warpgroup];
      if (thread % kWarpgroupThreads == 0) {
        if (again)
          tma_store_wait<0>();  // of what the same task stored before
        else
          tma_store_wait_read();
      }
      barrier_sync(kOut + warpgroup, kWarpgroupThreads);
      const int warp_row = fresh_thread() % kWarpgroupThreads / kWarpSize * 16;
      float inverse[2];
      bool too_large = false;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float total = quad_sum(row_sum[half]);
        const int r = warp_row + lane / 4 + half * 8, t = t_first + (r >> a.log2_heads);
        inverse[half] = 1 / total;
        if (t < a.in.T) {
          too_large |= !(total < C::kMaxSum);
          if (lane % 4 == 0)
            a.in.lse[(static_cast<std::int64_t>(task.row) * a.in.T + t) * a.in.HQ + task.head + (r & (a.heads - 1))] =
                row_max[half] * a.in.scale + __log2f(total) * kLn2;
        }
      }
      if (too_large && !again) atomicOr(&shared.too_large[task.number / 32 % C::kFlagWords], 1u << task.number % 32);
      shared.q_empty[queries.stage()].arrive_warp(lane);
#pragma unroll
      for (int d = 0; d < C::kD / 8; ++d)
#pragma unroll
        for (int e = 0; e < 4; ++e) out[d][e] *= inverse[e / 2];
#pragma unroll
      for (int m = 0; m < C::kD / 16; ++m) {
        std::uint32_t packed[4];
        pack_a(packed, out[2 * m], out[2 * m + 1]);
        stmatrix_16x16(staged[m / kSlices], warp_row, m % kSlices, packed, lane);
      }
      fence_view_async_shared();
      barrier_sync(kOut + warpgroup, kWarpgroupThreads);
      if (thread % kWarpgroupThreads == 0) {
#pragma unroll
        for (int half = 0; half < C::kHalves; ++half)
          tma_store(a.out, staged[half].data, half, task.head, t_first, task.row);
      }
    }
    if (thread % kWarpgroupThreads == 0) tma_store_wait_read();
    if (warpgroup == 0) barrier_sync(kTurn, kTurnThreads);
  }
#endif
}

}  // namespace ssa::cuda
