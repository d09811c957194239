// d_k and d_v of blocks that many of 32 neighbouring tokens selected: the tokens' queries are read once, into shared
// memory, and serve all those blocks.
#pragma once

#include "dkv_lists.cuh"

namespace ssa::cuda {

/// Groups of 16 heads, so that the rows of one token are those of one product.
struct GroupConfig {
  static constexpr int kD = 64, kHeads = 16;
  static constexpr int kWarps = 12, kThreads = kWarps * kWarpSize;
  static constexpr int kRows = kGroupTokens * kHeads;

  struct Entry {
    int block, place;
    unsigned tokens;
  };
  struct Shared {
    Tile<kRows, kD> q, d_out;
    alignas(16) float lse[kRows];
    alignas(16) float delta[kRows];
    int entries, next;
    // Behind it, max_entries of Entry.
  };
  /// Dense groups that one 32 tokens can be.
  static std::size_t max_entries(std::int64_t slots, int dense_tokens) {
    return static_cast<std::size_t>(kGroupTokens * slots / dense_tokens);
  }
  static std::size_t shared_bytes(std::int64_t slots, int dense_tokens) {
    return sizeof(Shared) + max_entries(slots, dense_tokens) * sizeof(Entry);
  }
};

/// Block (i, head) takes tokens [32 i, 32 i + 32). Its warps take 16 keys of a dense block at a time.
__global__ void __launch_bounds__(GroupConfig::kThreads, 1)
    sparse_group_d_kv_kernel(const SparseKeyGradients out, const InverseIndex index, const __nv_bfloat16* d_out,
                             const float* delta, const float* lse, const SparseArgs a) {
  using C = GroupConfig;
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<C::Shared*>(shared_bytes);
  auto* entries = reinterpret_cast<C::Entry*>(shared_bytes + sizeof(C::Shared));
  constexpr int kD = C::kD, kChunks = kD / 8;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarpSize;
  const std::int64_t local_head = blockIdx.y, row = (out.first_head + local_head) / a.HK;
  const int kv_head = static_cast<int>((out.first_head + local_head) % a.HK);
  const int group = static_cast<int>(blockIdx.x), t0 = group * kGroupTokens, tokens = min(kGroupTokens, a.T - t0);

  if (thread == 0) shared.entries = 0, shared.next = 0;
  __syncthreads();
  const int last_block = (t0 + tokens - 1) / a.block_size;
  for (int block = thread; block <= last_block; block += C::kThreads) {
    const std::int64_t at = (local_head * index.N + block) * index.words + group;
    const unsigned word = index.bitmap[at];
    // Their order does not matter: each has its place for the result.
    if (index.is_dense(word)) entries[atomicAdd(&shared.entries, 1)] = {block, index.dense_place[at], word};
  }
  __syncthreads();
  if (shared.entries == 0) return;

  const std::int64_t first_row = (row * a.T + t0) * a.HQ + kv_head * C::kHeads;
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

  const int block_units = a.block_size / kUnit, units = shared.entries * block_units;
  const std::int64_t k_stride = static_cast<std::int64_t>(a.HK) * kD;
  const float scale2 = a.scale * kLog2e;
  for (;;) {
    int unit = 0;
    if (lane == 0) unit = atomicAdd(&shared.next, 1);
    unit = __shfl_sync(kFullMask, unit, 0);
    if (unit >= units) break;
    const C::Entry entry = entries[unit / block_units];
    const int member = unit % block_units, u0 = entry.block * a.block_size + member * kUnit;
    const std::int64_t key_offset = (row * a.T + u0) * k_stride + kv_head * kD;
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
      const auto hide = [&](float(&p)[4], int) {
        if (ahead >= kUnit - 1) return;
        if ((lane >> 2) > ahead) p[0] = 0, p[1] = 0;
        if ((lane >> 2) + 8 > ahead) p[2] = 0, p[3] = 0;
      };
      add_rows<kD>(d_k, d_v, k, value_fragment, shared.q, shared.d_out, token * C::kHeads, shared.lse, shared.delta,
                   scale2, hide, lane);
    }
    float* to =
        out.dense_partials + ((local_head * index.max_dense + entry.place) * 2 * a.block_size + member * kUnit) * kD;
    store_rows<kD>(to, kD, kUnit, d_k, a.scale, false, lane);
    store_rows<kD>(to + a.block_size * kD, kD, kUnit, d_v, 1, false, lane);
  }
}

}  // namespace ssa::cuda
