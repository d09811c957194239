// A CTA takes one query head of one query. Its warps take every eighth key, with the D elements of a key spread over
// the lanes. Each warp runs an online softmax; the results of the warps are combined at the end. Every query head reads
// its keys: the heads of a group find them in L2.
#include "decode_attention.h"

#include "kernels/attention/dispatch.cuh"
#include "kernels/common/device/launch.cuh"
#include "kernels/common/device/math.cuh"
#include "kernels/common/device/reduce.cuh"

namespace ssa::cuda {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * kWarpSize;

struct DecodeArgs {
  __nv_bfloat16* out;
  const __nv_bfloat16 *q, *k, *v;
  const std::int32_t *positions, *indices;  ///< indices: null without a selection
  std::int64_t C;
  int T, HQ, HK, slots, tokens_per_key, block_size, window;
  float scale;
};

/// CTA (query head, t, sequence).
template <int kD>
__global__ void __launch_bounds__(kThreads) decode_attention_kernel(const DecodeArgs a) {
  constexpr int kEach = kD / kWarpSize;  ///< elements per lane
  __shared__ float warp_max_scores[kWarps], warp_sums[kWarps], warp_outs[kWarps][kD];
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize, lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int head = static_cast<int>(blockIdx.x), kv_head = head / (a.HQ / a.HK);
  const std::int64_t query = static_cast<std::int64_t>(blockIdx.z) * a.T + blockIdx.y;
  const int position = a.positions[query], end = (position + 1) / a.tokens_per_key;
  const std::int32_t* blocks = a.indices ? a.indices + (query * a.HK + kv_head) * a.slots : nullptr;
  const int first = a.window > 0 ? max(0, position - a.window + 1) : 0;
  const int count = blocks ? a.slots * a.block_size : end - first;
  const std::int64_t stride = static_cast<std::int64_t>(a.HK) * kD;
  const std::int64_t from = static_cast<std::int64_t>(blockIdx.z) * a.C * stride + kv_head * kD + lane * kEach;

  float q[kEach], out[kEach] = {}, row_max = -INFINITY, row_sum = 0;
#pragma unroll
  for (int e = 0; e < kEach; ++e)
    q[e] = __bfloat162float(a.q[(query * a.HQ + head) * kD + lane * kEach + e]) * a.scale * kLog2e;
  for (int i = warp; i < count; i += kWarps) {
    int u = first + i;
    if (blocks) {
      const int block = blocks[i / a.block_size];
      if (block < 0) break;  // the end of the list
      u = block * a.block_size + i % a.block_size;
      if (u >= end) continue;
    }
    const __nv_bfloat16 *k = a.k + from + u * stride, *v = a.v + from + u * stride;
    float score = 0;
#pragma unroll
    for (int e = 0; e < kEach; ++e) score += q[e] * __bfloat162float(k[e]);
    score = warp_sum(score);
    const float row_max_new = fmaxf(row_max, score), rescale = exp2_fast(row_max - row_max_new);
    const float weight = exp2_fast(score - row_max_new);
    row_max = row_max_new;
    row_sum = row_sum * rescale + weight;
#pragma unroll
    for (int e = 0; e < kEach; ++e) out[e] = out[e] * rescale + weight * __bfloat162float(v[e]);
  }

  if (lane == 0) warp_max_scores[warp] = row_max, warp_sums[warp] = row_sum;
#pragma unroll
  for (int e = 0; e < kEach; ++e) warp_outs[warp][lane * kEach + e] = out[e];
  __syncthreads();
  if (threadIdx.x >= kD) return;
  float all_max = -INFINITY, total = 0, value = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) all_max = fmaxf(all_max, warp_max_scores[w]);
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    if (warp_sums[w] == 0) continue;  // a warp without keys: its maximum is -infinity
    const float rescale = exp2_fast(warp_max_scores[w] - all_max);
    total += rescale * warp_sums[w];
    value += rescale * warp_outs[w][threadIdx.x];
  }
  a.out[(query * a.HQ + head) * kD + threadIdx.x] = __float2bfloat16_rn(total > 0 ? value / total : 0.0f);
}

}  // namespace

void decode_attention(Stream& stream, const DecodeAttention& p) {
  constexpr auto op = "decode_attention";
  const std::int64_t B = p.q.dim(0), T = p.q.dim(1), HQ = p.q.dim(2), HK = p.k.dim(2);
  const DecodeArgs a = {.out = bf16(p.out),
                        .q = bf16(p.q),
                        .k = bf16(p.k),
                        .v = bf16(p.v),
                        .positions = p.positions.as<std::int32_t>(),
                        .indices = p.indices.as_or_null<std::int32_t>(),
                        .C = p.k.dim(1),
                        .T = static_cast<int>(T),
                        .HQ = static_cast<int>(HQ),
                        .HK = static_cast<int>(HK),
                        .slots = p.indices ? static_cast<int>(p.indices.dim(3)) : 0,
                        .tokens_per_key = static_cast<int>(p.tokens_per_key),
                        .block_size = static_cast<int>(p.block_size),
                        .window = static_cast<int>(p.window),
                        .scale = p.scale};
  dispatch_head_dim(op, p.q.dim(3), HQ / HK, p.block_size, [&]<int kD>() {
    launch(stream, op, decode_attention_kernel<kD>,
           {.grid = dim3(static_cast<unsigned>(HQ), static_cast<unsigned>(T), static_cast<unsigned>(B)),
            .block = kThreads},
           a);
  });
}

}  // namespace ssa::cuda
