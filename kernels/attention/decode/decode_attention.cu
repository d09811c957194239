// A block takes one query head of one query; its warps take the keys in turn, a key's D elements spread over the lanes,
// and keep a running softmax each, which are joined at the end. Keys are read once a query head: the heads of a group
// meet in L2.
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

/// Block (query head, t, row).
template <int kD>
__global__ void __launch_bounds__(kThreads) decode_attention_kernel(const DecodeArgs a) {
  constexpr int kEach = kD / kWarpSize;  ///< elements a lane
  __shared__ float maxima[kWarps], sums[kWarps], outs[kWarps][kD];
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize, lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int head = static_cast<int>(blockIdx.x), kv_head = head / (a.HQ / a.HK);
  const std::int64_t query = static_cast<std::int64_t>(blockIdx.z) * a.T + blockIdx.y;
  const int position = a.positions[query], end = (position + 1) / a.tokens_per_key;
  const std::int32_t* blocks = a.indices ? a.indices + (query * a.HK + kv_head) * a.slots : nullptr;
  const int first = a.window > 0 ? max(0, position - a.window + 1) : 0;
  const int count = blocks ? a.slots * a.block_size : end - first;
  const std::int64_t stride = static_cast<std::int64_t>(a.HK) * kD;
  const std::int64_t from = static_cast<std::int64_t>(blockIdx.z) * a.C * stride + kv_head * kD + lane * kEach;

  float q[kEach], out[kEach] = {}, top = -INFINITY, sum = 0;
#pragma unroll
  for (int e = 0; e < kEach; ++e)
    q[e] = __bfloat162float(a.q[(query * a.HQ + head) * kD + lane * kEach + e]) * a.scale * kLog2e;
  for (int i = warp; i < count; i += kWarps) {
    int u = first + i;
    if (blocks) {
      const int block = blocks[i / a.block_size];
      if (block < 0) break;  // and so are all behind it
      u = block * a.block_size + i % a.block_size;
      if (u >= end) continue;
    }
    const __nv_bfloat16 *k = a.k + from + u * stride, *v = a.v + from + u * stride;
    float score = 0;
#pragma unroll
    for (int e = 0; e < kEach; ++e) score += q[e] * __bfloat162float(k[e]);
    score = warp_sum(score);
    const float higher = fmaxf(top, score), keep = exp2_fast(top - higher), weight = exp2_fast(score - higher);
    top = higher;
    sum = sum * keep + weight;
#pragma unroll
    for (int e = 0; e < kEach; ++e) out[e] = out[e] * keep + weight * __bfloat162float(v[e]);
  }

  if (lane == 0) maxima[warp] = top, sums[warp] = sum;
#pragma unroll
  for (int e = 0; e < kEach; ++e) outs[warp][lane * kEach + e] = out[e];
  __syncthreads();
  if (threadIdx.x >= kD) return;
  float highest = -INFINITY, total = 0, value = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) highest = fmaxf(highest, maxima[w]);
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    if (sums[w] == 0) continue;  // a warp without keys, whose maximum is -infinity
    const float share = exp2_fast(maxima[w] - highest);
    total += share * sums[w];
    value += share * outs[w][threadIdx.x];
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
