// A CTA takes one query head of one query and a part of its keys: all of them, or one of `splits` ranges when there are
// many, whose results a second kernel combines. A key's D elements are spread over D / 8 lanes, 16 bytes each, so that a
// warp takes 2 or 4 keys at a time; it loads kUnroll times as many before it uses them. Each group of lanes runs an
// online softmax; the results of groups and warps are combined at the end. Every query head reads its keys: the heads of
// a group find them in L2.
#include <algorithm>

#include "decode_attention.h"
#include "kernels/attention/dispatch.cuh"
#include "kernels/common/device/launch.cuh"
#include "kernels/common/device/math.cuh"
#include "kernels/common/device/reduce.cuh"

namespace ssa::cuda {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * kWarpSize;
constexpr int kVector = 8;  ///< elements in 16 bytes
constexpr int kUnroll = 4;
constexpr std::int64_t kSplitKeys = 1024;  ///< least keys of a range
constexpr std::int64_t kMostSplits = 32;

struct DecodeArgs {
  __nv_bfloat16* out;
  float* partials;  ///< [B, T, HQ, splits, 2 + D]: maximum, sum, output before division; null with one range
  const __nv_bfloat16 *q, *k, *v;
  const std::int32_t *positions, *indices;  ///< indices: null without a selection
  std::int64_t C;
  int T, HQ, HK, slots, tokens_per_key, block_size, window, splits;
  float scale;
};

/// kVector values in f32.
struct Vector {
  float at[kVector];
};

__device__ __forceinline__ Vector to_float(const uint4& x) {
  Vector out;
  const unsigned words[] = {x.x, x.y, x.z, x.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    out.at[2 * i] = __uint_as_float(words[i] << 16);
    out.at[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
  return out;
}

/// The softmax over some keys, relative to their maximum, and the sum of their values. Scores are in units of log2 e.
struct Partial {
  float max = -INFINITY, sum = 0;
  Vector out{};

  __device__ __forceinline__ void add(float score, const Vector& v) {
    const float new_max = fmaxf(max, score), rescale = exp2_fast(max - new_max), weight = exp2_fast(score - new_max);
    max = new_max;
    sum = sum * rescale + weight;
#pragma unroll
    for (int e = 0; e < kVector; ++e) out.at[e] = out.at[e] * rescale + weight * v.at[e];
  }
};

/// The factor of a partial result with maximum `max` in one with `all_max`, at least as high; 0 for one without keys.
__device__ __forceinline__ float rescale_of(float max, float all_max) {
  return max == -INFINITY ? 0.0f : exp2_fast(max - all_max);
}

/// CTA (query head, t and range, sequence).
template <int kD>
__global__ void __launch_bounds__(kThreads) decode_attention_kernel(const DecodeArgs a) {
  wait_for_previous_kernel();
  constexpr int kLanes = kD / kVector, kKeys = kWarpSize / kLanes;  ///< lanes per key, keys per warp
  __shared__ float max_of[kWarps * kKeys], sum_of[kWarps * kKeys], out_of[kWarps * kKeys][kD];
  const int group = static_cast<int>(threadIdx.x) / kLanes, lane = static_cast<int>(threadIdx.x) % kLanes;
  const int head = static_cast<int>(blockIdx.x), kv_head = head / (a.HQ / a.HK);
  const int t = static_cast<int>(blockIdx.y) / a.splits, split = static_cast<int>(blockIdx.y) % a.splits;
  const std::int64_t query = static_cast<std::int64_t>(blockIdx.z) * a.T + t;
  const int position = a.positions[query], end = (position + 1) / a.tokens_per_key;
  const std::int32_t* blocks = a.indices ? a.indices + (query * a.HK + kv_head) * a.slots : nullptr;
  const int first = a.window > 0 ? max(0, position - a.window + 1) : 0;
  const int count = blocks ? a.slots * a.block_size : end - first;
  const int range = (count + a.splits - 1) / a.splits, range_end = min(count, (split + 1) * range);
  const std::int64_t stride = static_cast<std::int64_t>(a.HK) * kLanes;
  const std::int64_t from = static_cast<std::int64_t>(blockIdx.z) * a.C * stride + kv_head * kLanes + lane;
  const uint4 *keys = reinterpret_cast<const uint4*>(a.k) + from, *values = reinterpret_cast<const uint4*>(a.v) + from;

  Vector q = to_float(reinterpret_cast<const uint4*>(a.q)[(query * a.HQ + head) * kLanes + lane]);
#pragma unroll
  for (int e = 0; e < kVector; ++e) q.at[e] *= a.scale * kLog2e;
  /// The key of place i in the list of keys; -1 if there is none.
  const auto key_at = [&](int i) {
    if (i >= range_end) return -1;
    if (!blocks) return first + i;
    const int block = blocks[i / a.block_size], u = block * a.block_size + i % a.block_size;
    return block >= 0 && u < end ? u : -1;
  };

  Partial own;
  for (int base = split * range; base < range_end; base += kUnroll * kWarps * kKeys) {
    int key[kUnroll];
    uint4 k[kUnroll] = {}, v[kUnroll] = {};
#pragma unroll
    for (int j = 0; j < kUnroll; ++j) {
      key[j] = key_at(base + group + j * kWarps * kKeys);
      if (key[j] < 0) continue;
      k[j] = keys[key[j] * stride];
      v[j] = values[key[j] * stride];
    }
#pragma unroll
    for (int j = 0; j < kUnroll; ++j) {
      const Vector x = to_float(k[j]);
      float score = 0;
#pragma unroll
      for (int e = 0; e < kVector; ++e) score += q.at[e] * x.at[e];
      score = warp_sum<kLanes>(score);
      if (key[j] >= 0) own.add(score, to_float(v[j]));
    }
  }

  if (lane == 0) max_of[group] = own.max, sum_of[group] = own.sum;
#pragma unroll
  for (int e = 0; e < kVector; ++e) out_of[group][lane * kVector + e] = own.out.at[e];
  __syncthreads();
  if (threadIdx.x >= kD) return;
  float all_max = -INFINITY, total = 0, value = 0;
#pragma unroll
  for (int g = 0; g < kWarps * kKeys; ++g) all_max = fmaxf(all_max, max_of[g]);
#pragma unroll
  for (int g = 0; g < kWarps * kKeys; ++g) {
    const float rescale = rescale_of(max_of[g], all_max);
    total += rescale * sum_of[g];
    value += rescale * out_of[g][threadIdx.x];
  }
  if (a.partials) {
    float* partial = a.partials + ((query * a.HQ + head) * a.splits + split) * (2 + kD);
    if (threadIdx.x == 0) partial[0] = all_max, partial[1] = total;
    partial[2 + threadIdx.x] = value;
    return;
  }
  a.out[(query * a.HQ + head) * kD + threadIdx.x] = __float2bfloat16_rn(total > 0 ? value / total : 0.0f);
}

/// CTA (query head of a query), a thread per element.
template <int kD>
__global__ void __launch_bounds__(kD) decode_attention_combine_kernel(const DecodeArgs a) {
  wait_for_previous_kernel();
  const float* partials = a.partials + static_cast<std::int64_t>(blockIdx.x) * a.splits * (2 + kD);
  float all_max = -INFINITY, total = 0, value = 0;
  for (int s = 0; s < a.splits; ++s) all_max = fmaxf(all_max, partials[s * (2 + kD)]);
  for (int s = 0; s < a.splits; ++s) {
    const float* partial = partials + s * (2 + kD);
    const float rescale = rescale_of(partial[0], all_max);
    total += rescale * partial[1];
    value += rescale * partial[2 + threadIdx.x];
  }
  a.out[static_cast<std::int64_t>(blockIdx.x) * kD + threadIdx.x] =
      __float2bfloat16_rn(total > 0 ? value / total : 0.0f);
}

/// Ranges of keys per query head. They depend on shapes alone, so that the order of the sums does.
std::int64_t splits_of(const DecodeAttention& p) {
  if (p.indices) return 1;
  const std::int64_t keys = p.window > 0 ? std::min(p.window, p.k.dim(1)) : p.k.dim(1);
  return std::clamp<std::int64_t>(keys / kSplitKeys, 1, kMostSplits);
}

}  // namespace

std::size_t scratch_bytes(const DecodeAttention& p) {
  const std::int64_t splits = splits_of(p), queries = p.q.dim(0) * p.q.dim(1) * p.q.dim(2);
  return splits == 1 ? 0 : static_cast<std::size_t>(queries * splits * (2 + p.q.dim(3))) * sizeof(float);
}

void decode_attention(Stream& stream, const DecodeAttention& p) {
  constexpr auto op = "decode_attention";
  const std::int64_t B = p.q.dim(0), T = p.q.dim(1), HQ = p.q.dim(2), HK = p.k.dim(2), splits = splits_of(p);
  const DecodeArgs a = {.out = bf16(p.out),
                        .partials = splits > 1 ? static_cast<float*>(stream.scratch(scratch_bytes(p))) : nullptr,
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
                        .splits = static_cast<int>(splits),
                        .scale = p.scale};
  dispatch_head_dim(op, p.q.dim(3), HQ / HK, p.block_size, [&]<int kD>() {
    launch(stream, op, decode_attention_kernel<kD>,
           {.grid = dim3(static_cast<unsigned>(HQ), static_cast<unsigned>(T * splits), static_cast<unsigned>(B)),
            .block = kThreads,
            .waits = true},
           a);
    if (splits > 1)
      launch(stream, op, decode_attention_combine_kernel<kD>,
             {.grid = static_cast<unsigned>(B * T * HQ), .block = kD, .waits = true}, a);
  });
}

}  // namespace ssa::cuda
