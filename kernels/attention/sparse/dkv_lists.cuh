// The schedule of d_k and d_v by lists: a warp keeps 16 keys in registers and streams the queries that selected them.
#pragma once

#include <climits>

#include "dkv_products.cuh"
#include "inverse_index.cuh"
#include "kernels/common/device/divide.cuh"
#include "kernels/common/device/launch.cuh"

namespace ssa::cuda {

/// Waits for the warps of one team.
template <int kTeam>
__device__ __forceinline__ void team_sync(int team) {
  if constexpr (kTeam == 1)
    __syncwarp();
  else
    asm volatile("bar.sync %0, %1;" ::"r"(kTeamBarrier + team), "n"(kTeam * kWarpSize) : "memory");
}

/// Persistent: a team takes one segment after the other. A counter gives each to the next team that is free.
template <class C>
__global__ void __launch_bounds__(C::kThreads, C::kCtasPerSm)
    sparse_dkv_lists_kernel(const SparseKeyGradients out, const InverseIndex index, const __nv_bfloat16* d_out,
                            const float* delta, const float* lse, const SparseArgs a,
                            const __grid_constant__ Divisor group) {
  extern __shared__ __align__(1024) unsigned char shared_bytes[];
  constexpr int kD = C::kD, kRows = C::kRows;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize, lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int team = warp / C::kTeam, member = warp % C::kTeam;
  auto& shared = reinterpret_cast<typename C::Shared*>(shared_bytes)->team[team];
  const float scale2 = a.scale * kLog2e;
  for (;;) {
    team_sync<C::kTeam>(team);  // all warps have finished with the segment before
    int task = 0;
    if constexpr (C::kTeam == 1) {
      if (lane == 0) task = atomicAdd(index.totals + InverseIndex::kTaken, 1);
      task = __shfl_sync(kFullMask, task, 0);
    } else {
      int& shared_task = shared.token[0][0];  // not in use between segments
      if (member == 0 && lane == 0) shared_task = atomicAdd(index.totals + InverseIndex::kTaken, 1);
      team_sync<C::kTeam>(team);
      task = shared_task;
      team_sync<C::kTeam>(team);
    }
    if (task >= index.totals[InverseIndex::kSegments]) break;

    const ListSegment segment = index.segments[task];
    const int local_head = segment.list / index.N, block = segment.list - local_head * index.N;
    const std::int64_t head = out.first_head + local_head, b = head / a.HK;
    const int kv_head = static_cast<int>(head % a.HK), G = a.HQ / a.HK;
    const int* tokens = index.tokens + segment.first;
    const int first_position = static_cast<int>(b) * a.T * a.HQ + kv_head * G;
    const int rows = segment.tokens * G, steps = (rows + kRows - 1) / kRows;

    // The query row that this lane looks up: its token, and its index in [B, T, HQ] if that were token 0. The index
    // fits in 32 bits (the launcher checks), so only the address of an element takes 64. The token is first used a step
    // later, when it has arrived.
    const int slot = lane % kRows;
    int next_token = 0, next_first = 0;
    const auto find = [&](int step) {
      const int r = step * kRows + slot;
      next_token = INT_MAX;
      if (r < rows) {
        const Divisor::Result token_head = group.divide(r);
        next_token = tokens[token_head.quotient];
        next_first = first_position + token_head.rest;
      }
    };
    const auto load = [&](int stage) {
      constexpr int kChunks = kD / 8, kThreads = C::kTeam * kWarpSize, kRowsAtOnce = kThreads / kChunks;
      const int thread = member * kWarpSize + lane, chunk = thread % kChunks;
      constexpr int kPasses = kD == 64 ? 2 : 1;  // at once: each keeps two addresses in registers
      const int next_position = next_token == INT_MAX ? -1 : next_first + next_token * a.HQ;
#pragma unroll kPasses
      for (int r = 0; r < kRows; r += kRowsAtOnce) {
        const int i = r + thread / kChunks;
        const int position = __shfl_sync(kFullMask, next_position, i);
        const bool inside = position >= 0;
        const std::int64_t offset = static_cast<std::int64_t>(position) * kD + chunk * 8;  // not used if not inside
        cp_async_16_l1(shared.q[stage].address(i, chunk), a.q + offset, inside);
        cp_async_16_l1(shared.d_out[stage].address(i, chunk), d_out + offset, inside);
      }
      if (member == 0 && lane < kRows) {  // rows after the last one are zeros and add nothing
        const bool inside = next_position >= 0;
        cp_async_4(shared_address(&shared.lse[stage][lane]), lse + next_position, inside);
        cp_async_4(shared_address(&shared.delta[stage][lane]), delta + next_position, inside);
        shared.token[stage][lane] = next_token;
      }
      cp_async_commit_group();
    };
    static_assert(kRows <= kWarpSize && kRows % (C::kTeam * kWarpSize / (kD / 8)) == 0);

    const int u0 = block * C::kBlockSize + member * kUnit;
    const std::int64_t k_stride = static_cast<std::int64_t>(a.HK) * kD;
    const std::int64_t key_offset = (b * a.T + u0) * k_stride + kv_head * kD;
    for (int i = lane; i < kUnit * kD / 8; i += kWarpSize) {
      const int r = i / (kD / 8), chunk = i % (kD / 8);
      const bool inside = u0 + r < a.T;
      cp_async_16(shared.v.address(member * kUnit + r, chunk),
                  a.v + (inside ? key_offset + r * k_stride + chunk * 8 : 0), inside);
    }
    find(0);
    load(0);
    find(1);
    std::uint32_t k[kD / 16][4];
    load_a_rows<kD>(k, a.k + key_offset, k_stride, a.T - u0, lane);

    float d_k[kD / 8][4] = {}, d_v[kD / 8][4] = {};
    for (int step = 0; step < steps; ++step) {
      const int stage = step & 1;
      cp_async_wait_group<0>();
      team_sync<C::kTeam>(team);  // this stage has arrived, and all warps have finished with the other one
      load(stage ^ 1);
      find(step + 2);

#pragma unroll 1  // 16 rows at a time: the scores of 32 would spill
      for (int row0 = 0; row0 < kRows; row0 += 16) {
        const auto value_fragment = [&](std::uint32_t(&v)[4], int kk) {
          load_a(v, shared.v, member * kUnit, kk, lane);
        };
        const auto mask = [&](float(&p)[4], int n) {
          const int2 t = *reinterpret_cast<const int2*>(&shared.token[stage][row0 + n * 8 + (lane & 3) * 2]);
          const int u = u0 + (lane >> 2);
          if (u > t.x) p[0] = 0;
          if (u > t.y) p[1] = 0;
          if (u + 8 > t.x) p[2] = 0;
          if (u + 8 > t.y) p[3] = 0;
        };
        add_rows<kD>(d_k, d_v, k, value_fragment, shared.q[stage], shared.d_out[stage], row0, shared.lse[stage],
                     shared.delta[stage], scale2, mask, lane);
      }
    }
    cp_async_wait_group<0>();

    // The only part of a block writes the gradients themselves, otherwise a partial sum for sparse_dkv_sum_kernel.
    const bool alone = segment.part < 0;
    const std::int64_t stride = alone ? k_stride : kD;
    const std::int64_t from_key =
        alone ? key_offset : (static_cast<std::int64_t>(segment.part) * 2 * C::kBlockSize + member * kUnit) * kD;
    const int keys = alone ? a.T - u0 : kUnit;
    const bool add = alone && out.accumulate;
    store_rows<kD>((alone ? out.d_k : out.partials) + from_key, stride, keys, d_k, a.scale, add, lane);
    store_rows<kD>((alone ? out.d_v : out.partials + C::kBlockSize * kD) + from_key, stride, keys, d_v, 1, add, lane);
  }
  end_after_previous_kernel();
}

}  // namespace ssa::cuda
