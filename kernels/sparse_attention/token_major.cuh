// Forward and d_q of block-sparse attention: one warp is one token, its heads are the rows of the products.
#pragma once

#include "kernels/sparse_attention/key_stream.cuh"

namespace ssa::cuda {

struct SparseArgs {
  const __nv_bfloat16 *q, *k, *v;
  const int* indices;
  int T, HQ, HK, slots, block_size;
  float scale;
};

template <class C>
__global__ void __launch_bounds__(C::kThreads, C::kMinBlocks)
    sparse_forward_kernel(__nv_bfloat16* out_, float* lse, const SparseArgs a) {
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  auto& shared = reinterpret_cast<typename C::Shared*>(shared_bytes)->warp[threadIdx.x / kWarpSize];
  constexpr int kD = C::kD;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const TokenTask task = TokenTask::of_warp<C>(a.HQ, a.HK);
  if (task.t >= a.T) return;
  const std::int64_t position = (task.row * a.T + task.t) * a.HQ + task.head;
  KeyStream<C, true> keys(shared, task, a.k, a.v, a.indices, a.T, a.HK, a.slots, a.block_size, lane);
  std::uint32_t q[kD / 16][4];
  load_a_rows<kD>(q, a.q + position * kD, kD, task.heads, lane);

  float out[kD / 8][4] = {};
  float best[2] = {-kInfinity, -kInfinity}, sum[2] = {};
  const float scale2 = a.scale * kLog2e;
  for (int step = 0; step < keys.steps(); ++step) {
    keys.advance(step);
    const int stage = step & 1;
    float scores[C::kKeys / 8][4];
    multiply_keys<C>(scores, q, shared.k[stage], lane);
#pragma unroll
    for (int n = 0; n < C::kKeys / 8; ++n) {
      const int u = keys.first_key(n / 2) + n % 2 * 8 + (lane & 3) * 2;
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if (u + (e & 1) > task.t) scores[n][e] = -kInfinity;
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float top = best[half];
#pragma unroll
      for (int n = 0; n < C::kKeys / 8; ++n) top = fmaxf(top, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
      top = quad_max(top);  // finite: the first unit of a step starts at or before the token
      const float correction = exp2_fast((best[half] - top) * scale2);
      best[half] = top;
      sum[half] *= correction;
#pragma unroll
      for (int n = 0; n < C::kKeys / 8; ++n)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float& s = scores[n][2 * half + c];
          s = exp2_fast(s * scale2 - top * scale2);
          sum[half] += s;
        }
#pragma unroll
      for (int d = 0; d < kD / 8; ++d) out[d][2 * half] *= correction, out[d][2 * half + 1] *= correction;
    }
#pragma unroll
    for (int n = 0; n < C::kUnits; ++n) {
      std::uint32_t p[4];
      pack_a(p, scores[2 * n], scores[2 * n + 1]);
#pragma unroll
      for (int d = 0; d < kD / 16; ++d) {
        std::uint32_t b[4];
        load_b_transposed(b, shared.v[stage], n * kUnit, d * 16, lane);
        mma(out[2 * d], p, b[0], b[1]);
        mma(out[2 * d + 1], p, b[2], b[3]);
      }
    }
  }
  copy_async_wait<0>();

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int h = (lane >> 2) + half * 8;
    const float total = quad_sum(sum[half]);
    const float inverse = total == 0 ? 0.0f : 1 / total;
    if (h >= task.heads) continue;
    if ((lane & 3) == 0) lse[position + h] = total == 0 ? -kInfinity : best[half] * a.scale + __log2f(total) * kLn2;
    auto* to = reinterpret_cast<std::uint32_t*>(out_ + (position + h) * kD);
#pragma unroll
    for (int d = 0; d < kD / 8; ++d)
      to[d * 4 + (lane & 3)] = pack_bf16(out[d][2 * half] * inverse, out[d][2 * half + 1] * inverse);
  }
}

template <class C>
__global__ void __launch_bounds__(C::kThreads, C::kD == 64 ? C::kMinBlocks : 2)
    sparse_d_q_kernel(float* d_q_, const __nv_bfloat16* d_out, const float* delta_, const float* lse_,
                      const SparseArgs a, const bool accumulate) {
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  auto& shared = reinterpret_cast<typename C::Shared*>(shared_bytes)->warp[threadIdx.x / kWarpSize];
  constexpr int kD = C::kD;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const TokenTask task = TokenTask::of_warp<C>(a.HQ, a.HK);
  if (task.t >= a.T) return;
  const std::int64_t position = (task.row * a.T + task.t) * a.HQ + task.head;
  KeyStream<C, true> keys(shared, task, a.k, a.v, a.indices, a.T, a.HK, a.slots, a.block_size, lane);
  std::uint32_t q[kD / 16][4], d_o[kD / 16][4];
  load_a_rows<kD>(q, a.q + position * kD, kD, task.heads, lane);
  load_a_rows<kD>(d_o, d_out + position * kD, kD, task.heads, lane);
  float lse2[2] = {}, delta[2] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int h = (lane >> 2) + half * 8;
    if (h < task.heads) lse2[half] = lse_[position + h] * kLog2e, delta[half] = delta_[position + h];
  }

  float d_q[kD / 8][4] = {};
  const float scale2 = a.scale * kLog2e;
  for (int step = 0; step < keys.steps(); ++step) {
    keys.advance(step);
    const int stage = step & 1;
    float scores[C::kKeys / 8][4], d_p[C::kKeys / 8][4];
    multiply_keys<C>(scores, q, shared.k[stage], lane);
    multiply_keys<C>(d_p, d_o, shared.v[stage], lane);
#pragma unroll
    for (int n = 0; n < C::kKeys / 8; ++n) {
      const int u = keys.first_key(n / 2) + n % 2 * 8 + (lane & 3) * 2;
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float p = u + (e & 1) > task.t ? 0.0f : exp2_fast(scores[n][e] * scale2 - lse2[e / 2]);
        d_p[n][e] = p * (d_p[n][e] - delta[e / 2]);
      }
    }
#pragma unroll
    for (int n = 0; n < C::kUnits; ++n) {
      std::uint32_t d_s[4];
      pack_a(d_s, d_p[2 * n], d_p[2 * n + 1]);
#pragma unroll
      for (int d = 0; d < kD / 16; ++d) {
        std::uint32_t b[4];
        load_b_transposed(b, shared.k[stage], n * kUnit, d * 16, lane);
        mma(d_q[2 * d], d_s, b[0], b[1]);
        mma(d_q[2 * d + 1], d_s, b[2], b[3]);
      }
    }
  }
  copy_async_wait<0>();

#pragma unroll
  for (int d = 0; d < kD / 8; ++d) {
    const RowOfFour four = row_of_four(d_q[d], lane);
    if (four.row >= task.heads) continue;
    auto* to = reinterpret_cast<float4*>(d_q_ + (position + four.row) * kD + d * 8 + four.col);
    float4 value =
        make_float4(four.values.x * a.scale, four.values.y * a.scale, four.values.z * a.scale, four.values.w * a.scale);
    if (accumulate) {
      const float4 before = *to;
      value = make_float4(before.x + value.x, before.y + value.y, before.z + value.z, before.w + value.w);
    }
    *to = value;
  }
}

}  // namespace ssa::cuda
