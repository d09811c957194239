// A CTA takes one query head of one query and a part of its keys: all of them, or one of `splits` ranges when there are
// many, whose results a second kernel combines. A key's D elements are spread over D / 8 lanes, 16 bytes each, so that
// a warp takes 2 or 4 keys at a time; it loads kUnroll times as many before it uses them. Each group of lanes runs an
// online softmax; the results of groups and warps are combined at the end. Every query head reads its keys: the heads
// of a group find them in L2.
#include <algorithm>
#include <bit>

#include "decode_attention.h"
#include "kernels/attention/dispatch.cuh"
#include "kernels/common/device/launch.cuh"
#include "kernels/common/device/math.cuh"
#include "kernels/common/device/reduce.cuh"
#include "kernels/common/device/vector.cuh"

namespace ssa::cuda {
namespace {

constexpr int kVector = 8;  ///< elements in 16 bytes
constexpr int kUnroll = 4;
constexpr int kWarps = 8;
constexpr int kSelectedWarps = 16;         ///< with a selection: all keys of 16 blocks of 16 are in flight together
constexpr std::int64_t kSplitKeys = 1024;  ///< least keys of a range
constexpr std::int64_t kMostSplits = 32;

struct DecodeArgs {
  __nv_bfloat16* out;
  float* partials;  ///< [B, T, HQ, splits, 2 + D]: maximum, sum, output before division; null with one range
  const __nv_bfloat16 *q, *k, *v;
  const float* gates;                       ///< null without gates
  const std::int32_t *positions, *indices;  ///< indices: null without a selection
  std::int64_t C;
  int T, HQ, HK, slots, tokens_per_key, block_shift, window, splits;
  float scale;

  /// The factor of a query head's output.
  __device__ __forceinline__ float gate(std::int64_t head) const { return gates ? gates[3 * head + 1] : 1.0f; }
};

/// The factor of a partial result with maximum `max` in one with `all_max`, at least as high; 0 for one without keys.
__device__ __forceinline__ float rescale_of(float max, float all_max) {
  return max == -INFINITY ? 0.0f : exp2_fast(max - all_max);
}

/// The softmax over some keys, relative to their maximum, and the sum of kCount elements of their values. Scores are in
/// units of log2 e.
template <int kCount>
struct Partial {
  float max = -INFINITY, sum = 0;
  Floats<kCount> out{};

  /// Adds other keys.
  __device__ __forceinline__ void add(float other_max, float other_sum, const Floats<kCount>& other) {
    const float all_max = fmaxf(max, other_max), mine = rescale_of(max, all_max),
                others = rescale_of(other_max, all_max);
    max = all_max;
    sum = sum * mine + other_sum * others;
#pragma unroll
    for (int e = 0; e < kCount; ++e) out[e] = out[e] * mine + other[e] * others;
  }

  /// Adds the keys of another lane of the warp.
  __device__ __forceinline__ void add_lane(int distance) {
    Floats<kCount> other;
#pragma unroll
    for (int e = 0; e < kCount; ++e) other[e] = __shfl_xor_sync(kFullMask, out[e], distance);
    add(__shfl_xor_sync(kFullMask, max, distance), __shfl_xor_sync(kFullMask, sum, distance), other);
  }
};

/// Of one element: parts 0 to count - 1 together, where part(i) is a Partial. In two passes, in which the parts do not
/// wait for each other.
template <class PartOf>
__device__ __forceinline__ Partial<1> combine(int count, PartOf&& part) {
  Partial<1> all;
#pragma unroll 16
  for (int i = 0; i < count; ++i) all.max = fmaxf(all.max, part(i).max);
#pragma unroll 16
  for (int i = 0; i < count; ++i) {
    const Partial<1> one = part(i);
    const float rescale = rescale_of(one.max, all.max);
    all.sum += rescale * one.sum;
    all.out[0] += rescale * one.out[0];
  }
  return all;
}

/// One element of the output, times the gate.
__device__ __forceinline__ void store_output(const DecodeArgs& a, std::int64_t head, int D, float gate,
                                             const Partial<1>& all) {
  const float value = all.sum > 0 ? all.out[0] / all.sum : 0.0f;
  a.out[head * D + threadIdx.x] = __float2bfloat16_rn(gate * round_bf16(value));
}

/// CTA (query head, t and range, sequence).
template <int kD, int kWarps>
__global__ void __launch_bounds__(kWarps* kWarpSize) decode_attention_kernel(const DecodeArgs a) {
  wait_for_previous_kernel();
  constexpr int kLanes = kD / kVector, kKeys = kWarpSize / kLanes;  ///< lanes per key, keys per warp
  __shared__ float max_of[kWarps], sum_of[kWarps];
  __shared__ Floats<kVector> out_of[kWarps][kLanes];
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int group = static_cast<int>(threadIdx.x) / kLanes, lane = static_cast<int>(threadIdx.x) % kLanes;
  const int head = static_cast<int>(blockIdx.x), kv_head = head / (a.HQ / a.HK);
  const int t = static_cast<int>(blockIdx.y) / a.splits, split = static_cast<int>(blockIdx.y) % a.splits;
  const std::int64_t query = static_cast<std::int64_t>(blockIdx.z) * a.T + t;
  const int position = a.positions[query], end = (position + 1) / a.tokens_per_key;
  const std::int32_t* blocks = a.indices ? a.indices + (query * a.HK + kv_head) * a.slots : nullptr;
  const int first = a.window > 0 ? max(0, position - a.window + 1) : 0;
  const int count = blocks ? a.slots << a.block_shift : end - first;
  const int range = (count + a.splits - 1) / a.splits, range_end = min(count, (split + 1) * range);
  const std::int64_t stride = static_cast<std::int64_t>(a.HK) * kLanes;
  const std::int64_t from = static_cast<std::int64_t>(blockIdx.z) * a.C * stride + kv_head * kLanes + lane;
  const uint4 *keys = reinterpret_cast<const uint4*>(a.k) + from, *values = reinterpret_cast<const uint4*>(a.v) + from;

  const float gate = a.gate(query * a.HQ + head);
  Floats<kVector> q = load<kVector>(a.q + (query * a.HQ + head) * kD + lane * kVector);
#pragma unroll
  for (int e = 0; e < kVector; ++e) q[e] *= a.scale * kLog2e;
  /// The key of place i in the list of keys; -1 if there is none.
  const auto key_at = [&](int i) {
    if (i >= range_end) return -1;
    if (!blocks) return first + i;
    const int block = blocks[i >> a.block_shift], u = (block << a.block_shift) + (i & ((1 << a.block_shift) - 1));
    return block >= 0 && u < end ? u : -1;
  };

  Partial<kVector> own;
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
      const Floats<kVector> x = unpack_bf16(k[j]);
      float score = 0;
#pragma unroll
      for (int e = 0; e < kVector; ++e) score += q[e] * x[e];
      score = warp_sum<kLanes>(score);
      if (key[j] >= 0) own.add(score, 1.0f, unpack_bf16(v[j]));
    }
  }

#pragma unroll
  for (int distance = kLanes; distance < kWarpSize; distance *= 2) own.add_lane(distance);
  if (threadIdx.x % kWarpSize < kLanes) {
    if (lane == 0) max_of[warp] = own.max, sum_of[warp] = own.sum;
    out_of[warp][lane] = own.out;
  }
  __syncthreads();
  if (threadIdx.x >= kD) return;
  const Partial<1> all = combine(kWarps, [&](int w) {
    return Partial<1>{max_of[w], sum_of[w], {out_of[w][threadIdx.x / kVector].v[threadIdx.x % kVector]}};
  });
  if (a.partials) {
    float* partial = a.partials + ((query * a.HQ + head) * a.splits + split) * (2 + kD);
    if (threadIdx.x == 0) partial[0] = all.max, partial[1] = all.sum;
    partial[2 + threadIdx.x] = all.out[0];
    return;
  }
  store_output(a, query * a.HQ + head, kD, gate, all);
}

/// CTA (query head of a query), a thread per element.
template <int kD>
__global__ void __launch_bounds__(kD) decode_attention_combine_kernel(const DecodeArgs a) {
  wait_for_previous_kernel();
  const float* partials = a.partials + static_cast<std::int64_t>(blockIdx.x) * a.splits * (2 + kD);
  const Partial<1> all = combine(a.splits, [&](int s) {
    const float* partial = partials + s * (2 + kD);
    return Partial<1>{partial[0], partial[1], {partial[2 + threadIdx.x]}};
  });
  store_output(a, blockIdx.x, kD, a.gate(blockIdx.x), all);
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
                        .gates = p.gates.as_or_null<float>(),
                        .positions = p.positions.as<std::int32_t>(),
                        .indices = p.indices.as_or_null<std::int32_t>(),
                        .C = p.k.dim(1),
                        .T = static_cast<int>(T),
                        .HQ = static_cast<int>(HQ),
                        .HK = static_cast<int>(HK),
                        .slots = p.indices ? static_cast<int>(p.indices.dim(3)) : 0,
                        .tokens_per_key = static_cast<int>(p.tokens_per_key),
                        .block_shift = std::countr_zero(static_cast<unsigned>(p.indices ? p.block_size : 1)),
                        .window = static_cast<int>(p.window),
                        .splits = static_cast<int>(splits),
                        .scale = p.scale};
  dispatch_head_dim(op, p.q.dim(3), HQ / HK, p.block_size, [&]<int kD>() {
    launch(stream, op, p.indices ? decode_attention_kernel<kD, kSelectedWarps> : decode_attention_kernel<kD, kWarps>,
           {.grid = dim3(static_cast<unsigned>(HQ), static_cast<unsigned>(T * splits), static_cast<unsigned>(B)),
            .block = (p.indices ? kSelectedWarps : kWarps) * kWarpSize,
            .waits = true},
           a);
    if (splits > 1)
      launch(stream, op, decode_attention_combine_kernel<kD>,
             {.grid = static_cast<unsigned>(B * T * HQ), .block = kD, .waits = true}, a);
  });
}

}  // namespace ssa::cuda
