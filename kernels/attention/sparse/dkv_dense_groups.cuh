// The schedule of d_k and d_v for blocks that many of 32 adjacent tokens selected: the queries of the 32 tokens are
// read into shared memory once for all these blocks.
#pragma once

#include "dkv_products.cuh"
#include "inverse_index.cuh"

namespace ssa::cuda {

/// CTA (i, head) takes tokens [32 i, 32 i + 32). Its warps take units of 16 keys of the dense blocks in turn.
__global__ void __launch_bounds__(DenseGroupsConfig::kThreads, 1)
    sparse_dkv_dense_groups_kernel(const SparseKeyGradients out, const InverseIndex index, const __nv_bfloat16* d_out,
                                   const float* delta, const float* lse, const SparseArgs a) {
  using C = DenseGroupsConfig;
  extern __shared__ __align__(1024) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<C::Shared*>(shared_bytes);
  auto* entries = shared.entries();
  constexpr int kD = C::kD, kChunks = kD / 8;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarpSize;
  const std::int64_t local_head = blockIdx.y, b = (out.first_head + local_head) / a.HK;
  const int kv_head = static_cast<int>((out.first_head + local_head) % a.HK);
  const int group = static_cast<int>(blockIdx.x), t0 = group * kGroupTokens, tokens = min(kGroupTokens, a.T - t0);

  if (thread == 0) shared.entries_count = 0, shared.next_unit = 0;
  __syncthreads();
  const int last_block = (t0 + tokens - 1) / a.block_size;
  for (int block = thread; block <= last_block; block += C::kThreads) {
    const std::int64_t at = (local_head * index.N + block) * index.words + group;
    const unsigned word = index.bitmap[at];
    // Their order does not matter: each has a place of its own for its partial sum.
    if (index.is_dense(word)) entries[atomicAdd(&shared.entries_count, 1)] = {block, index.dense_place[at], word};
  }
  __syncthreads();
  if (shared.entries_count == 0) return;

  const std::int64_t first_row = (b * a.T + t0) * a.HQ + kv_head * C::kHeads;
  for (int i = thread; i < C::kRows * kChunks; i += C::kThreads) {
    const int r = i / kChunks, chunk = i % kChunks, token = r / C::kHeads;
    const bool inside = token < tokens;
    const std::int64_t offset =
        (first_row + (inside ? static_cast<std::int64_t>(token) * a.HQ + r % C::kHeads : 0)) * kD + chunk * 8;
    cp_async_16(shared.q.address(r, chunk), a.q + offset, inside);
    cp_async_16(shared.d_out.address(r, chunk), d_out + offset, inside);
  }
  for (int r = thread; r < C::kRows; r += C::kThreads) {
    const int token = r / C::kHeads;
    const bool inside = token < tokens;
    const std::int64_t at = first_row + (inside ? static_cast<std::int64_t>(token) * a.HQ + r % C::kHeads : 0);
    cp_async_4(shared_address(&shared.lse[r]), lse + at, inside);
    cp_async_4(shared_address(&shared.delta[r]), delta + at, inside);
  }
  cp_async_commit_group();
  cp_async_wait_group<0>();
  __syncthreads();

  const int block_units = a.block_size / kUnit, units = shared.entries_count * block_units;
  const std::int64_t k_stride = static_cast<std::int64_t>(a.HK) * kD;
  const float scale2 = a.scale * kLog2e;
  for (;;) {
    int unit = 0;
    if (lane == 0) unit = atomicAdd(&shared.next_unit, 1);
    unit = __shfl_sync(kFullMask, unit, 0);
    if (unit >= units) break;
    const C::Entry entry = entries[unit / block_units];
    const int member = unit % block_units, u0 = entry.block * a.block_size + member * kUnit;
    const std::int64_t key_offset = (b * a.T + u0) * k_stride + kv_head * kD;
    std::uint32_t k[kD / 16][4], v[kD / 16][4];
    load_a_rows<kD>(k, a.k + key_offset, k_stride, a.T - u0, lane);
    load_a_rows<kD>(v, a.v + key_offset, k_stride, a.T - u0, lane);

    float d_k[kD / 8][4] = {}, d_v[kD / 8][4] = {};
#pragma unroll 1
    for (unsigned rest = entry.tokens; rest; rest &= rest - 1) {
      const int token = __ffs(static_cast<int>(rest)) - 1, ahead = t0 + token - u0;
      const auto value_fragment = [&](std::uint32_t(&fragment)[4], int kk) {
#pragma unroll
        for (int i = 0; i < 4; ++i) fragment[i] = v[kk][i];
      };
      const auto mask = [&](float(&p)[4], int) {
        if (ahead >= kUnit - 1) return;
        if ((lane >> 2) > ahead) p[0] = 0, p[1] = 0;
        if ((lane >> 2) + 8 > ahead) p[2] = 0, p[3] = 0;
      };
      add_rows<kD>(d_k, d_v, k, value_fragment, shared.q, shared.d_out, token * C::kHeads, shared.lse, shared.delta,
                   scale2, mask, lane);
    }
    float* to =
        out.dense_partials + ((local_head * index.max_dense + entry.place) * 2 * a.block_size + member * kUnit) * kD;
    store_rows<kD>(to, kD, kUnit, d_k, a.scale, false, lane);
    store_rows<kD>(to + a.block_size * kD, kD, kUnit, d_v, 1, false, lane);
  }
}

}  // namespace ssa::cuda
