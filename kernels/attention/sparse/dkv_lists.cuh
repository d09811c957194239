// d_k and d_v of block-sparse attention: a warp holds 16 keys and streams the queries that selected them.
#pragma once

#include "inverse_index.cuh"
#include "key_stream.cuh"

namespace ssa::cuda {

/// kTeam warps share the queries of one block of 16 kTeam keys. A query row is a (token, head) pair: rows are taken
/// densely, so that any group size fills the products.
template <int kD_, int kTeam_>
struct BlockConfig {
  static constexpr int kD = kD_, kTeam = kTeam_;
  static constexpr int kWarps = 4, kThreads = kWarps * kWarpSize, kTeams = kWarps / kTeam;
  static constexpr int kRows = kD == 64 ? 32 : 16;  ///< query rows a step
  static constexpr int kStages = 2;
  static constexpr int kBlockSize = kTeam * kUnit;
  static constexpr int kMinBlocks = kD == 64 && kTeam == 1 ? 3 : 2;  ///< what the registers allow

  struct TeamShared {
    Tile<kBlockSize, kD> v;  ///< k stays in registers; for both there are too few
    Tile<kRows, kD> q[kStages], d_out[kStages];
    alignas(16) float lse[kStages][kRows];
    alignas(16) float delta[kStages][kRows];
    alignas(16) int token[kStages][kRows];
  };
  struct Shared {
    TeamShared team[kTeams];
  };
};

/// Partial sums are [2, block_size, D]: d_k, d_v.
struct SparseKeyGradients {
  float *d_k, *d_v;
  float* partials;        ///< [heads, max_segments, ..] of the segments of blocks that have more than one part
  float* dense_partials;  ///< [heads, max_dense, ..]
  std::int64_t first_head;
  bool accumulate;
};

/// Barrier of one team; a warp alone needs no more than itself.
template <int kTeam>
__device__ __forceinline__ void team_sync(int team) {
  if constexpr (kTeam == 1)
    __syncwarp();
  else
    asm volatile("bar.sync %0, %1;" ::"r"(team + 1), "n"(kTeam * kWarpSize) : "memory");
}

/// d_k, d_v (16 x D) += those of 16 query rows of the tiles, from row0 on. `value_fragment(v, kk)` gives the A operand
/// of the values, `hide(p, n)` sets probabilities of unseen keys to 0 in columns 8 n .. 8 n + 7.
template <int kD, class TileType, class ValueFragment, class Hide>
__device__ __forceinline__ void add_rows(float (&d_k)[kD / 8][4], float (&d_v)[kD / 8][4],
                                         const std::uint32_t (&k)[kD / 16][4], ValueFragment&& value_fragment,
                                         const TileType& q, const TileType& d_out, int row0, const float* lse,
                                         const float* delta, float scale2, Hide&& hide, int lane) {
  // Keys are the rows of the products, so that p and d_s are the A operands of d_v and d_k as they are.
  float p[2][4] = {}, dp[2][4] = {};
#pragma unroll
  for (int kk = 0; kk < kD / 16; ++kk) {
    std::uint32_t v[4], b[4];
    value_fragment(v, kk);
    load_b(b, q, row0, kk, lane);
    mma(p[0], k[kk], b[0], b[1]);
    mma(p[1], k[kk], b[2], b[3]);
    load_b(b, d_out, row0, kk, lane);
    mma(dp[0], v, b[0], b[1]);
    mma(dp[1], v, b[2], b[3]);
  }
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const int i = row0 + n * 8 + (lane & 3) * 2;
    const float2 l = *reinterpret_cast<const float2*>(&lse[i]);
    const float2 d = *reinterpret_cast<const float2*>(&delta[i]);
#pragma unroll
    for (int e = 0; e < 4; ++e) p[n][e] = exp2_fast(p[n][e] * scale2 - ((e & 1) ? l.y : l.x) * kLog2e);
    hide(p[n], n);
#pragma unroll
    for (int e = 0; e < 4; ++e) dp[n][e] = p[n][e] * (dp[n][e] - ((e & 1) ? d.y : d.x));
  }
  std::uint32_t p_part[4], d_s[4];
  pack_a(p_part, p[0], p[1]);
  pack_a(d_s, dp[0], dp[1]);
#pragma unroll
  for (int d = 0; d < kD / 16; ++d) {
    std::uint32_t b[4];
    load_b_transposed(b, d_out, row0, d * 16, lane);
    mma(d_v[2 * d], p_part, b[0], b[1]);
    mma(d_v[2 * d + 1], p_part, b[2], b[3]);
    load_b_transposed(b, q, row0, d * 16, lane);
    mma(d_k[2 * d], d_s, b[0], b[1]);
    mma(d_k[2 * d + 1], d_s, b[2], b[3]);
  }
}

/// Writes (16 x D) to `to`, rows `stride` elements apart, the first `rows` of them; adds if `add`.
template <int kD>
__device__ __forceinline__ void store_rows(float* to, std::int64_t stride, int rows, const float (&sums)[kD / 8][4],
                                           float factor, bool add, int lane) {
#pragma unroll
  for (int d = 0; d < kD / 8; ++d) {
    const RowOfFour four = row_of_four(sums[d], lane);
    if (four.row >= rows) continue;
    auto* place = reinterpret_cast<float4*>(to + four.row * stride + d * 8 + four.col);
    float4 value =
        make_float4(four.values.x * factor, four.values.y * factor, four.values.z * factor, four.values.w * factor);
    if (add) {
      const float4 before = *place;
      value = make_float4(before.x + value.x, before.y + value.y, before.z + value.z, before.w + value.w);
    }
    *place = value;
  }
}

/// Blocks (i, head): team t takes segment i * kTeams + t of the head.
template <class C>
__global__ void __launch_bounds__(C::kThreads, C::kMinBlocks)
    sparse_d_kv_kernel(const SparseKeyGradients out, const InverseIndex index, const __nv_bfloat16* d_out,
                       const float* delta, const float* lse, const SparseArgs a) {
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  constexpr int kD = C::kD, kRows = C::kRows;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize, lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int team = warp / C::kTeam, member = warp % C::kTeam;
  auto& shared = reinterpret_cast<typename C::Shared*>(shared_bytes)->team[team];
  const std::int64_t local_head = blockIdx.y, row = (out.first_head + local_head) / a.HK;
  const int kv_head = static_cast<int>((out.first_head + local_head) % a.HK), G = a.HQ / a.HK;
  const int segment = static_cast<int>(blockIdx.x) * C::kTeams + team;
  const int* segment_begin = index.segment_begin + local_head * (index.N + 1);
  if (segment >= segment_begin[index.N]) return;

  const int block = index.segment_block[local_head * index.max_segments + segment];
  const int* token_begin = index.token_begin + local_head * (index.N + 1) + block;
  const int first_token = token_begin[0] + (segment - segment_begin[block]) * index.segment_tokens;
  const int* tokens = index.tokens + local_head * a.T * a.slots + first_token;
  const int rows = min(index.segment_tokens, token_begin[1] - first_token) * G;
  const int steps = (rows + kRows - 1) / kRows;

  // The row that this lane looks up: its token, and its place among all (row, token, head). 32 bits hold the latter
  // (the launcher checks), and only the address of an element needs 64.
  const int slot = lane % kRows;
  int next_token = 0, next_position = -1;
  const auto find = [&](int step) {
    const int r = step * kRows + slot;
    next_position = -1;
    next_token = INT_MAX;
    if (r < rows) {
      const unsigned i = static_cast<unsigned>(r) / static_cast<unsigned>(G);
      next_token = tokens[i];
      next_position = (static_cast<int>(row) * a.T + next_token) * a.HQ + kv_head * G + (r - static_cast<int>(i) * G);
    }
  };
  const auto load = [&](int stage) {
    constexpr int kChunks = kD / 8, kThreads = C::kTeam * kWarpSize, kRowsAtOnce = kThreads / kChunks;
    const int thread = member * kWarpSize + lane, chunk = thread % kChunks;
#pragma unroll 1  // each pass under way keeps two addresses in registers
    for (int r = 0; r < kRows; r += kRowsAtOnce) {
      const int i = r + thread / kChunks;
      const int position = __shfl_sync(kFullMask, next_position, i % kWarpSize);
      const bool inside = position >= 0;
      const std::int64_t offset = static_cast<std::int64_t>(inside ? position : 0) * kD + chunk * 8;
      cp_async_16_l1(shared.q[stage].address(i, chunk), a.q + offset, inside);
      cp_async_16_l1(shared.d_out[stage].address(i, chunk), d_out + offset, inside);
    }
    if (member == 0 && lane < kRows) {  // a row that is not there gets zeros everywhere, and adds nothing
      const bool inside = next_position >= 0;
      const int offset = inside ? next_position : 0;
      cp_async_4(shared_address(&shared.lse[stage][lane]), lse + offset, inside);
      cp_async_4(shared_address(&shared.delta[stage][lane]), delta + offset, inside);
      shared.token[stage][lane] = next_token;
    }
    cp_async_commit_group();
  };
  static_assert(kRows % (C::kTeam * kWarpSize / (kD / 8)) == 0);

  const int u0 = block * C::kBlockSize + member * kUnit;
  const std::int64_t k_stride = static_cast<std::int64_t>(a.HK) * kD;
  const std::int64_t key_offset = (row * a.T + u0) * k_stride + kv_head * kD;
  for (int i = lane; i < kUnit * kD / 8; i += kWarpSize) {
    const int r = i / (kD / 8), chunk = i % (kD / 8);
    const bool inside = u0 + r < a.T;
    cp_async_16(shared.v.address(member * kUnit + r, chunk), a.v + (inside ? key_offset + r * k_stride + chunk * 8 : 0),
                inside);
  }
  find(0);
  load(0);
  find(1);
  std::uint32_t k[kD / 16][4];
  load_a_rows<kD>(k, a.k + key_offset, k_stride, a.T - u0, lane);

  float d_k[kD / 8][4] = {}, d_v[kD / 8][4] = {};
  const float scale2 = a.scale * kLog2e;
  for (int step = 0; step < steps; ++step) {
    const int stage = step & 1;
    cp_async_wait_group<0>();
    team_sync<C::kTeam>(team);  // this stage is there, and all have left the other one
    load(stage ^ 1);
    find(step + 2);

#pragma unroll 1  // 16 rows at a time: the scores of 32 would spill
    for (int row0 = 0; row0 < kRows; row0 += 16) {
      const auto value_fragment = [&](std::uint32_t(&v)[4], int kk) { load_a(v, shared.v, member * kUnit, kk, lane); };
      const auto hide = [&](float(&p)[4], int n) {
        const int2 t = *reinterpret_cast<const int2*>(&shared.token[stage][row0 + n * 8 + (lane & 3) * 2]);
        const int u = u0 + (lane >> 2);
        if (u > t.x) p[0] = 0;
        if (u > t.y) p[1] = 0;
        if (u + 8 > t.x) p[2] = 0;
        if (u + 8 > t.y) p[3] = 0;
      };
      add_rows<kD>(d_k, d_v, k, value_fragment, shared.q[stage], shared.d_out[stage], row0, shared.lse[stage],
                   shared.delta[stage], scale2, hide, lane);
    }
  }
  cp_async_wait_group<0>();

  // A block's only part writes the gradients themselves, else a partial sum that the next kernel adds up.
  const int* dense_begin = index.dense_begin + local_head * (index.N + 1) + block;
  const bool alone = segment_begin[block + 1] - segment_begin[block] == 1 && dense_begin[0] == dense_begin[1];
  const std::int64_t stride = alone ? k_stride : kD;
  const std::int64_t from_key =
      alone ? key_offset : ((local_head * index.max_segments + segment) * 2 * C::kBlockSize + member * kUnit) * kD;
  const int keys = alone ? a.T - u0 : kUnit;
  const bool add = alone && out.accumulate;
  store_rows<kD>((alone ? out.d_k : out.partials) + from_key, stride, keys, d_k, a.scale, add, lane);
  store_rows<kD>((alone ? out.d_v : out.partials + C::kBlockSize * kD) + from_key, stride, keys, d_v, 1, add, lane);
}

inline constexpr int kReduceThreads = 512;  ///< the first block may have hundreds of parts

/// Block (n, head): adds the parts of block n in order, or writes 0 where nobody selected it.
template <int kD>
__global__ void __launch_bounds__(kReduceThreads, 2)
    sparse_reduce_kernel(const SparseKeyGradients out, const InverseIndex index, int T, int HK, int block_size) {
  const std::int64_t local_head = blockIdx.y, row = (out.first_head + local_head) / HK;
  const int kv_head = static_cast<int>((out.first_head + local_head) % HK), block = static_cast<int>(blockIdx.x);
  const int* segment_begin = index.segment_begin + local_head * (index.N + 1) + block;
  const int first = segment_begin[0], segments = segment_begin[1] - first;
  const int* dense_begin = index.dense_begin + local_head * (index.N + 1) + block;
  const int first_dense = dense_begin[0], dense = dense_begin[1] - first_dense;
  if (segments == 1 && dense == 0) return;  // written by the team that had it
  const std::int64_t segment_stride = static_cast<std::int64_t>(2) * block_size * kD;
  const float* partials = out.partials + (local_head * index.max_segments + first) * segment_stride;
  const float* dense_partials = out.dense_partials + (local_head * index.max_dense + first_dense) * segment_stride;
  const int vectors = 2 * block_size * kD / 4;
  for (int i = static_cast<int>(threadIdx.x); i < vectors; i += kReduceThreads) {
    const int which = i / (vectors / 2), r = i % (vectors / 2) / (kD / 4), c = i % (kD / 4) * 4;
    const int u = block * block_size + r;
    if (u >= T) continue;
    float4 sum = {0, 0, 0, 0};
    const auto add = [&](const float* parts, int count) {
#pragma unroll 8
      for (int s = 0; s < count; ++s) {
        const float4 part = *reinterpret_cast<const float4*>(parts + s * segment_stride + i * 4);
        sum = make_float4(sum.x + part.x, sum.y + part.y, sum.z + part.z, sum.w + part.w);
      }
    };
    add(partials, segments);
    add(dense_partials, dense);
    auto* to = reinterpret_cast<float4*>((which ? out.d_v : out.d_k) + ((row * T + u) * HK + kv_head) * kD + c);
    if (out.accumulate) {
      const float4 before = *to;
      sum = make_float4(before.x + sum.x, before.y + sum.y, before.z + sum.z, before.w + sum.w);
    }
    *to = sum;
  }
}

}  // namespace ssa::cuda
