// The schedule of d_k and d_v for blocks that many of 32 adjacent tokens selected: the queries of the 32 tokens are
// read into shared memory once for all these blocks.
#pragma once

#include "dkv_products.cuh"
#include "inverse_index.cuh"
#include "kernels/common/device/launch.cuh"
#include "kernels/common/ptx/mbarrier.cuh"

namespace ssa::cuda {

/// CTA (i, head) takes tokens [32 i, 32 i + 32). Its warps share the (token, unit of 16 keys) pairs of the dense blocks
/// evenly: each takes adjacent pairs in the order of blocks, units, tokens. With `split`, a unit's tokens may be
/// divided among warps, and the warp that has the first ones adds up the sums of all. Otherwise it takes all tokens
/// itself.
__global__ void __launch_bounds__(DenseGroupsConfig::kThreads, 1)
    sparse_dkv_dense_groups_kernel(const SparseKeyGradients out, const InverseIndex index, const __nv_bfloat16* d_out,
                                   const float* delta, const float* lse, const SparseArgs a, const bool split) {
  using C = DenseGroupsConfig;
  let_next_kernel_start();
  extern __shared__ __align__(1024) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<C::Shared*>(shared_bytes);
  constexpr int kD = C::kD, kRowChunks = kD / 8;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarpSize, lane = thread % kWarpSize;
  const std::int64_t local_head = blockIdx.y, b = (out.first_head + local_head) / a.HK;
  const int kv_head = static_cast<int>((out.first_head + local_head) % a.HK);
  const int group = static_cast<int>(blockIdx.x), t0 = group * kGroupTokens, tokens = min(kGroupTokens, a.T - t0);

  if (thread == 0) {
    for (std::uint64_t& loaded : shared.loaded) mbarrier_init(shared_address(&loaded), C::kThreads);
    for (std::uint64_t& ready : shared.ready) mbarrier_init(shared_address(&ready), kArrivalsOfWarp);
  }
  __syncthreads();
  const std::int64_t first_row = (b * a.T + t0) * a.HQ + kv_head * C::kHeads;
  constexpr int kTokenChunks = C::kHeads * kRowChunks, kTokensAtOnce = C::kThreads / kTokenChunks;
  static_assert(C::kThreads % kTokenChunks == 0 && C::kHeads % 8 == 0);  // a thread's permuted chunk stays the same
  const int first_token = thread / kTokenChunks, head = thread % kTokenChunks / kRowChunks,
            row_chunk = thread % kRowChunks;
  const std::uint32_t place = Tile<C::kRows, kD>::offset(first_token * C::kHeads + head, row_chunk);
  std::uint32_t q_to = shared_address(&shared.q) + place, d_out_to = shared_address(&shared.d_out) + place;
  std::int64_t from = (first_row + static_cast<std::int64_t>(first_token) * a.HQ + head) * kD + row_chunk * 8;
  for (int r = thread; r < C::kRows; r += C::kThreads) {
    const int token = r / C::kHeads;
    const bool inside = token < tokens;
    const std::int64_t at = first_row + (inside ? static_cast<std::int64_t>(token) * a.HQ + r % C::kHeads : 0);
    cp_async_4(shared_address(&shared.lse[r]), lse + at, inside);
    cp_async_4(shared_address(&shared.delta[r]), delta + at, inside);
  }
  int to_load = first_token;
#pragma unroll
  for (int chunk = 0; chunk < C::kChunks; ++chunk) {
#pragma unroll 1
    for (; to_load < (chunk + 1) * C::kChunkTokens; to_load += kTokensAtOnce) {
      cp_async_16(q_to, a.q + from, to_load < tokens);
      cp_async_16(d_out_to, d_out + from, to_load < tokens);
      q_to += kTokensAtOnce * C::kHeads * kD * 2;
      d_out_to += kTokensAtOnce * C::kHeads * kD * 2;
      from += static_cast<std::int64_t>(kTokensAtOnce) * a.HQ * kD;
    }
    cp_async_mbarrier_arrive_noinc(shared_address(&shared.loaded[chunk]));
  }

  // While the queries arrive: the dense blocks in order, because the order of the sums depends on it.
  C::Entry* const entries = shared.entries(split);
  const std::int64_t word = local_head * index.words + group;
  const DenseGroup* found = index.dense + word * index.max_word_groups;
  const int count = index.dense_count[word], block_units = a.block_size / kUnit;
  for (int i = thread; i < count; i += C::kThreads) {
    const DenseGroup mine = found[i];
    int before = 0, pairs_before = 0;
#pragma unroll 4
    for (int j = 0; j < count; ++j) {
      const DenseGroup other = found[j];
      if (other.block >= mine.block) continue;
      ++before;
      pairs_before += __popc(other.tokens) * block_units;
    }
    entries[before] = {mine.block, mine.part, mine.tokens, pairs_before};
  }
  __syncthreads();

  const int pairs = count == 0 ? 0 : entries[count - 1].pairs_before + __popc(entries[count - 1].tokens) * block_units;
  const auto begin_of = [&](int w) { return pairs * w / C::kWarps; };
  const int end = begin_of(warp + 1);
  int next = begin_of(warp), at = -1;  // the pair, and its entry
  for (int i = lane; i - lane < count; i += kWarpSize)
    at += __popc(__ballot_sync(kFullMask, i < count && entries[i].pairs_before <= next));
  const std::int64_t k_stride = static_cast<std::int64_t>(a.HK) * kD;
  const float scale2 = a.scale * kLog2e;
  while (next < end) {
    const C::Entry entry = entries[at];
    const int unit_pairs = __popc(entry.tokens), pair = next - entry.pairs_before;
    const int member = pair / unit_pairs, skipped = pair - member * unit_pairs;
    const int unit_end = next - skipped + unit_pairs, to = split ? min(unit_end, end) : unit_end;
    const int steps = to - next;
    next = to;
    if (member == block_units - 1 && to == unit_end) ++at;
    if (!split && skipped > 0) continue;

    const int u0 = entry.block * a.block_size + member * kUnit;
    const std::int64_t key_offset = (b * a.T + u0) * k_stride + kv_head * kD;
    std::uint32_t k[kD / 16][4], v[kD / 16][4];
    load_a_rows<kD>(k, a.k + key_offset, k_stride, a.T - u0, lane);
    load_a_rows<kD>(v, a.v + key_offset, k_stride, a.T - u0, lane);

    float d_k[kD / 8][4] = {}, d_v[kD / 8][4] = {};
    unsigned rest = entry.tokens;
    for (int i = 0; i < skipped; ++i) rest &= rest - 1;
    unsigned after = rest;  // the tokens of later warps
    for (int i = 0; i < steps; ++i) after &= after - 1;
    rest ^= after;
#pragma unroll 1
    while (rest) {
      const int chunk = (__ffs(static_cast<int>(rest)) - 1) / C::kChunkTokens;
      unsigned here = rest & C::kChunkMask << chunk * C::kChunkTokens;
      rest ^= here;
      mbarrier_wait(shared_address(&shared.loaded[chunk]), 0);
#pragma unroll 1
      for (; here; here &= here - 1) {
        const int token = __ffs(static_cast<int>(here)) - 1, ahead = t0 + token - u0;
        const auto value_fragment = [&](std::uint32_t(&fragment)[4], int kk) {
#pragma unroll
          for (int e = 0; e < 4; ++e) fragment[e] = v[kk][e];
        };
        const auto mask = [&](float(&p)[4], int) {
          if (ahead >= kUnit - 1) return;
          if ((lane >> 2) > ahead) p[0] = 0, p[1] = 0;
          if ((lane >> 2) + 8 > ahead) p[2] = 0, p[3] = 0;
        };
        add_rows<kD>(d_k, d_v, k, value_fragment, shared.q, shared.d_out, token * C::kHeads, shared.lse, shared.delta,
                     scale2, mask, lane);
      }
    }
    if (skipped > 0) {  // at most once: the units after the warp's first one begin with their first token
      auto& sums = shared.piece(warp).sums;
#pragma unroll
      for (int d = 0; d < kD / 8; ++d) {
        sums[d][lane] = make_float4(d_k[d][0], d_k[d][1], d_k[d][2], d_k[d][3]);
        sums[kD / 8 + d][lane] = make_float4(d_v[d][0], d_v[d][1], d_v[d][2], d_v[d][3]);
      }
      mbarrier_arrive_warp(shared_address(&shared.ready[warp]), lane);
      continue;
    }
    for (int other = warp + 1; to < unit_end && other < C::kWarps && begin_of(other) < unit_end; ++other) {
      if (begin_of(other) == begin_of(other + 1)) continue;
      mbarrier_wait(shared_address(&shared.ready[other]), 0);
      const auto& sums = shared.piece(other).sums;
#pragma unroll
      for (int d = 0; d < kD / 8; ++d) {
        const float4 more_k = sums[d][lane], more_v = sums[kD / 8 + d][lane];
        d_k[d][0] += more_k.x, d_k[d][1] += more_k.y, d_k[d][2] += more_k.z, d_k[d][3] += more_k.w;
        d_v[d][0] += more_v.x, d_v[d][1] += more_v.y, d_v[d][2] += more_v.z, d_v[d][3] += more_v.w;
      }
    }
    float* part = out.dense_partials + (static_cast<std::int64_t>(entry.part) * 2 * a.block_size + member * kUnit) * kD;
    store_rows<kD>(part, kD, kUnit, d_k, a.scale, false, lane);
    store_rows<kD>(part + a.block_size * kD, kD, kUnit, d_v, 1, false, lane);
  }
  mbarrier_wait(shared_address(&shared.loaded[C::kChunks - 1]), 0);  // no copy is left
}

}  // namespace ssa::cuda
