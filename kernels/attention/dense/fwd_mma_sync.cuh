// Forward of dense attention with an online softmax (FlashAttention-2, arXiv 2307.08691), with any mask
// of mask.cuh.
#pragma once

#include "config.cuh"

namespace ssa::cuda {

/// CTA (h, i, b): the i-th q tile from the end (the longest tasks start first) of head h of sequence b.
template <class C, class Mask>
__global__ void __launch_bounds__(C::kThreads, C::kMinBlocks)
    fwd_mma_sync_kernel(const DenseForwardArgs a, const Mask masks) {
  extern __shared__ __align__(1024) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<typename C::Shared*>(shared_bytes);
  constexpr int kD = C::kD, kRowTiles = 2;  // of 16 rows each, per warp
  constexpr bool kDocuments = kIsInDocuments<Mask>;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarpSize, lane = thread % kWarpSize;
  const int head = static_cast<int>(blockIdx.x), kv_head = head / (a.HQ / a.HK);
  const int t0 = static_cast<int>(gridDim.y - 1 - blockIdx.y) * C::kBlockM;
  const int t_last = min(a.T, t0 + C::kBlockM) - 1;
  const std::int64_t row = blockIdx.z;
  const auto& mask = of_sequence(masks, row);

  const std::int64_t q_stride = static_cast<std::int64_t>(a.HQ) * kD, k_stride = static_cast<std::int64_t>(a.HK) * kD;
  const __nv_bfloat16* q = a.q + (row * a.T + t0) * q_stride + head * kD;
  const std::int64_t key_offset = row * a.U * k_stride + kv_head * kD;
  int tile_first = kDocuments ? 0 : mask.key_begin(t0) / C::kBlockN;
  const int tile_end = (min(a.U, mask.key_end(t_last)) + C::kBlockN - 1) / C::kBlockN;

  const auto load_keys = [&](int tile, int stage) {
    const std::int64_t offset = key_offset + static_cast<std::int64_t>(tile) * C::kBlockN * k_stride;
    load_rows<C::kThreads>(shared.k[stage], a.k + offset, k_stride, a.U - tile * C::kBlockN, thread);
    load_rows<C::kThreads>(shared.v[stage], a.v + offset, k_stride, a.U - tile * C::kBlockN, thread);
  };

  float out[kRowTiles][kD / 8][4] = {};
  // Of rows lane / 4 and lane / 4 + 8; the sum is this lane's part of the row.
  float row_max[kRowTiles][2], row_sum[kRowTiles][2];
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) row_max[i][half] = -kInfinity, row_sum[i][half] = 0;
  const float scale2 = a.scale * kLog2e;

  load_rows<C::kThreads>(shared.q, q, q_stride, a.T - t0, thread);
  if constexpr (kDocuments) {  // before the bounds arrive from memory
    if (tile_end > 0) load_keys(tile_end - 1, 0);
    for (int i = thread; i < C::kBlockM; i += C::kThreads)
      shared.keys[i] = make_int2(mask.key_begin(t0 + i), mask.key_end(t0 + i));
  } else {
    if (tile_first < tile_end) load_keys(tile_end - 1, 0);
  }
  cp_async_commit_group();
  cp_async_wait_group<0>();
  __syncthreads();
  if constexpr (kDocuments) tile_first = shared.keys[0].x / C::kBlockN;

  std::uint32_t q_fragment[C::kQueriesInRegisters ? kD / 16 : 1][kRowTiles][4];
  if constexpr (C::kQueriesInRegisters) {
#pragma unroll
    for (int kk = 0; kk < kD / 16; ++kk)
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) load_a(q_fragment[kk][i], shared.q, warp * 32 + i * 16, kk, lane);
  }

  int stage = 0;
  for (int tile = tile_end - 1; tile >= tile_first; --tile, stage ^= 1) {
    cp_async_wait_group<0>();
    __syncthreads();  // this stage has arrived, and every warp has finished with the other one
    if (tile > tile_first) load_keys(tile - 1, stage ^ 1);
    cp_async_commit_group();

    float scores[kRowTiles][C::kBlockN / 8][4] = {};
    // Each unrolled step keeps its addresses in registers.
    constexpr int kUnroll = C::kQueriesInRegisters ? kD / 16 : 2;
#pragma unroll(kUnroll)
    for (int kk = 0; kk < kD / 16; ++kk) {
      if constexpr (!C::kQueriesInRegisters) {
#pragma unroll
        for (int i = 0; i < kRowTiles; ++i) load_a(q_fragment[0][i], shared.q, warp * 32 + i * 16, kk, lane);
      }
#pragma unroll
      for (int n = 0; n < C::kBlockN / 16; ++n) {
        std::uint32_t b[4];
        load_b(b, shared.k[stage], n * 16, kk, lane);
#pragma unroll
        for (int i = 0; i < kRowTiles; ++i) {
          const auto& fragment = q_fragment[C::kQueriesInRegisters ? kk : 0][i];
          mma(scores[i][2 * n], fragment, b[0], b[1]);
          mma(scores[i][2 * n + 1], fragment, b[2], b[3]);
        }
      }
    }

    const int u0 = tile * C::kBlockN;
    // With documents, from shared memory, and by warps.
    const auto keys_of_token = [&](int t) {
      if constexpr (kDocuments)
        return Indices(shared.keys[t - t0].x, shared.keys[t - t0].y);
      else
        return keys_of(mask, t);
    };
    bool masked;
    if constexpr (kDocuments)
      masked = u0 + C::kBlockN > shared.keys[warp * 32].y || u0 < shared.keys[warp * 32 + 31].x;
    else
      masked = u0 + C::kBlockN > mask.key_end(t0) || u0 < mask.key_begin(t_last);
    if (masked) {
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const auto keys = keys_of_token(t0 + warp * 32 + i * 16 + half * 8 + (lane >> 2));
#pragma unroll
          for (int n = 0; n < C::kBlockN / 8; ++n)
#pragma unroll
            for (int c = 0; c < 2; ++c) {
              const int u = u0 + n * 8 + (lane & 3) * 2 + c;
              if (!keys.contains(u)) scores[i][n][2 * half + c] = -kInfinity;
            }
        }
    }

#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float row_max_new = row_max[i][half];
#pragma unroll
        for (int n = 0; n < C::kBlockN / 8; ++n)
          row_max_new = fmaxf(row_max_new, fmaxf(scores[i][n][2 * half], scores[i][n][2 * half + 1]));
        row_max_new = quad_max(row_max_new);
        const float shift =
            row_max_new == -kInfinity ? 0.0f : row_max_new * scale2;  // a row may have no visible key in this tile
        const float rescale = exp2_fast(row_max[i][half] * scale2 - shift);
        row_max[i][half] = row_max_new;
        float tile_sum = 0;
#pragma unroll
        for (int n = 0; n < C::kBlockN / 8; ++n)
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            float& s = scores[i][n][2 * half + c];
            s = exp2_fast(s * scale2 - shift);
            tile_sum += s;
          }
        row_sum[i][half] = row_sum[i][half] * rescale + tile_sum;
#pragma unroll
        for (int d = 0; d < kD / 8; ++d) out[i][d][2 * half] *= rescale, out[i][d][2 * half + 1] *= rescale;
      }

#pragma unroll
    for (int kk = 0; kk < C::kBlockN / 16; ++kk) {
      std::uint32_t p[kRowTiles][4];
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) pack_a(p[i], scores[i][2 * kk], scores[i][2 * kk + 1]);
#pragma unroll
      for (int d = 0; d < kD / 16; ++d) {
        std::uint32_t b[4];
        load_b_transposed(b, shared.v[stage], kk * 16, d * 16, lane);
#pragma unroll
        for (int i = 0; i < kRowTiles; ++i) {
          mma(out[i][2 * d], p[i], b[0], b[1]);
          mma(out[i][2 * d + 1], p[i], b[2], b[3]);
        }
      }
    }
  }

#pragma unroll
  for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float total = quad_sum(row_sum[i][half]);
      const float inverse = total == 0 ? 0.0f : 1 / total;
      const int t = t0 + warp * 32 + i * 16 + half * 8 + (lane >> 2);
      if (t >= a.T) continue;
      const std::int64_t position = (row * a.T + t) * a.HQ + head;
      if ((lane & 3) == 0)
        a.lse[position] = total == 0 ? -kInfinity : row_max[i][half] * a.scale + __log2f(total) * kLn2;
      auto* to = reinterpret_cast<std::uint32_t*>(a.out + position * kD);
#pragma unroll
      for (int d = 0; d < kD / 8; ++d)
        to[d * 4 + (lane & 3)] = pack_bf16(out[i][d][2 * half] * inverse, out[i][d][2 * half + 1] * inverse);
    }
}

}  // namespace ssa::cuda
