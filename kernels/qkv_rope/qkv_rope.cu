// One block takes one block of tokens of a row (block_size of them), one warp a token at a time. Lanes take pairs of
// vectors, (i, i + D/2) of one head; in the wide path a lane keeps its place in the head, and with it the cosines and
// sines, over all heads of the token. The means come after a barrier, from the rounded k just written.
#include <algorithm>

#include "kernels/common/launch.cuh"
#include "kernels/common/math.cuh"
#include "kernels/common/reduce.cuh"
#include "kernels/common/vector.cuh"
#include "ssa/ops/qkv_rope.h"

namespace ssa::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kGates = 3;

struct Heads {
  int HQ, HK, D;
  __host__ __device__ int width() const { return (HQ + 2 * HK) * D + kGates * HQ; }
};

template <int kVec>
struct Angles {
  Floats<kVec> cosine, sine;
};

/// Of pairs [d, d + kVec) at one position.
template <int kVec>
__device__ __forceinline__ Angles<kVec> load_angles(const float* cos_sin, int d) {
  const Floats<2 * kVec> raw = [&] {
    if constexpr (kVec == 1)
      return Floats<2>{{cos_sin[2 * d], cos_sin[2 * d + 1]}};
    else
      return load_constant<2 * kVec>(cos_sin + 2 * d);
  }();
  Angles<kVec> angles;
#pragma unroll
  for (int i = 0; i < kVec; ++i) angles.cosine[i] = raw[2 * i], angles.sine[i] = raw[2 * i + 1];
  return angles;
}

/// Calls visit(head, d, angles of d) for all heads of one token, d in [0, D/2) in steps of kVec, split over the warp.
/// kChunks is D/2 / kVec if that is known and divides 32, else 0. kUnroll visits are in flight together.
template <int kVec, int kChunks, int kUnroll, class Visit>
__device__ __forceinline__ void for_each_pair(int heads, int D, const float* cos_sin, Visit&& visit) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  if constexpr (kChunks > 0) {
    const int d = lane % kChunks * kVec;
    const Angles<kVec> angles = load_angles<kVec>(cos_sin, d);
#pragma unroll kUnroll
    for (int head = lane / kChunks; head < heads; head += kWarpSize / kChunks) visit(head, d, angles);
  } else {
    const int chunks = D / 2 / kVec;
    for (int item = lane; item < heads * chunks; item += kWarpSize) {
      const int d = item % chunks * kVec;
      visit(item / chunks, d, load_angles<kVec>(cos_sin, d));
    }
  }
}

struct Forward {
  __nv_bfloat16 *q, *k, *v, *k_mean, *v_mean;
  float* gates;
  const __nv_bfloat16* qkvg;
  const std::int32_t* positions;
  const float* cos_sin;
  std::int64_t T, N;
  int block_size;
  Heads heads;
};

/// Mean over `count` tokens, `stride` apart.
template <int kVec>
__device__ __forceinline__ Floats<kVec> mean_of(const __nv_bfloat16* from, std::int64_t stride, int count) {
  Floats<kVec> sum{};
#pragma unroll 8
  for (int token = 0; token < count; ++token) {
    const Floats<kVec> x = load<kVec>(from + token * stride);
#pragma unroll
    for (int i = 0; i < kVec; ++i) sum[i] += x[i];
  }
#pragma unroll
  for (int i = 0; i < kVec; ++i) sum[i] /= static_cast<float>(count);
  return sum;
}

template <int kVec, int kChunks>
__global__ void __launch_bounds__(kThreads, 4) qkv_rope_forward_kernel(const __grid_constant__ Forward p) {
  const auto [HQ, HK, D] = p.heads;
  const int width = p.heads.width(), half = D / 2, kv_width = HK * D;
  const std::int64_t row = blockIdx.x / p.N, block = blockIdx.x % p.N;
  const std::int64_t begin = row * p.T + block * p.block_size;
  const int count = static_cast<int>(min(static_cast<std::int64_t>(p.block_size), p.T - block * p.block_size));
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;
  for (int token = warp; token < count; token += kWarps) {
    const std::int64_t m = begin + token;
    const __nv_bfloat16* from = p.qkvg + m * width;
    const float* cos_sin = p.cos_sin + static_cast<std::int64_t>(p.positions[m]) * D;
    // Columns of q and k follow each other, so one walk over HQ + HK heads rotates both.
    for_each_pair<kVec, kChunks, 2>(HQ + HK, D, cos_sin, [&](int head, int d, const Angles<kVec>& angles) {
      const Floats<kVec> low = load_constant<kVec>(from + head * D + d),
                         high = load_constant<kVec>(from + head * D + d + half);
      Floats<kVec> rotated_low, rotated_high;
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        rotated_low[i] = low[i] * angles.cosine[i] - high[i] * angles.sine[i];
        rotated_high[i] = high[i] * angles.cosine[i] + low[i] * angles.sine[i];
      }
      __nv_bfloat16* to = head < HQ ? p.q + (m * HQ + head) * D : p.k + (m * HK + head - HQ) * D;
      store<kVec>(to + d, rotated_low);
      store<kVec>(to + d + half, rotated_high);
    });
    from += (HQ + HK) * D;
    for (int i = lane * kVec; i < kv_width; i += kWarpSize * kVec)
      store<kVec>(p.v + m * kv_width + i, load_constant<kVec>(from + i));
    from += kv_width;
    for (int i = lane * kVec; i < kGates * HQ; i += kWarpSize * kVec) {
      Floats<kVec> logit = load_constant<kVec>(from + i);
#pragma unroll
      for (int j = 0; j < kVec; ++j) logit[j] = sigmoid(logit[j]);
      store<kVec>(p.gates + m * kGates * HQ + i, logit);
    }
  }
  if (!p.k_mean && !p.v_mean) return;
  __syncthreads();
  const std::int64_t mean_row = static_cast<std::int64_t>(blockIdx.x) * kv_width;
  for (int i = static_cast<int>(threadIdx.x) * kVec; i < kv_width; i += kThreads * kVec) {
    if (p.k_mean) store<kVec>(p.k_mean + mean_row + i, mean_of<kVec>(p.k + begin * kv_width + i, kv_width, count));
    if (p.v_mean) store<kVec>(p.v_mean + mean_row + i, mean_of<kVec>(p.v + begin * kv_width + i, kv_width, count));
  }
}

struct Backward {
  __nv_bfloat16* d_qkvg;
  const float *d_q, *d_k, *d_v, *d_gates, *d_k_mean, *d_v_mean, *gates;
  const std::int32_t* positions;
  const float* cos_sin;
  std::int64_t T, N, M;
  int block_size;
  Heads heads;
};

template <int kVec>
__device__ __forceinline__ void add_scaled(Floats<kVec>& to, const float* from, float scale) {
  const Floats<kVec> x = load_constant<kVec>(from);
#pragma unroll
  for (int i = 0; i < kVec; ++i) to[i] += scale * x[i];
}

/// One warp a token.
template <int kVec, int kChunks>
__global__ void __launch_bounds__(kThreads, 3) qkv_rope_backward_kernel(const __grid_constant__ Backward p) {
  const std::int64_t m = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
  if (m >= p.M) return;
  const auto [HQ, HK, D] = p.heads;
  const int half = D / 2, kv_width = HK * D;
  const std::int64_t row = m / p.T, block = (m - row * p.T) / p.block_size, mean_row = (row * p.N + block) * kv_width;
  const float share =
      1.0f / static_cast<float>(min(static_cast<std::int64_t>(p.block_size), p.T - block * p.block_size));
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  __nv_bfloat16* to = p.d_qkvg + m * p.heads.width();
  const float* cos_sin = p.cos_sin + static_cast<std::int64_t>(p.positions[m]) * D;
  for_each_pair<kVec, kChunks, 1>(HQ + HK, D, cos_sin, [&](int head, int d, const Angles<kVec>& angles) {
    const float* from = head < HQ ? p.d_q + (m * HQ + head) * D : p.d_k + (m * HK + head - HQ) * D;
    Floats<kVec> low = load_constant<kVec>(from + d), high = load_constant<kVec>(from + d + half);
    if (head >= HQ && p.d_k_mean) {
      const float* mean = p.d_k_mean + mean_row + (head - HQ) * D;
      add_scaled(low, mean + d, share);
      add_scaled(high, mean + d + half, share);
    }
    Floats<kVec> back_low, back_high;
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      back_low[i] = low[i] * angles.cosine[i] + high[i] * angles.sine[i];
      back_high[i] = high[i] * angles.cosine[i] - low[i] * angles.sine[i];
    }
    store<kVec>(to + head * D + d, back_low);
    store<kVec>(to + head * D + d + half, back_high);
  });
  to += (HQ + HK) * D;
#pragma unroll 1
  for (int i = lane * kVec; i < kv_width; i += kWarpSize * kVec) {
    Floats<kVec> d_v = load_constant<kVec>(p.d_v + m * kv_width + i);
    if (p.d_v_mean) add_scaled(d_v, p.d_v_mean + mean_row + i, share);
    store<kVec>(to + i, d_v);
  }
  to += kv_width;
#pragma unroll 1
  for (int i = lane * kVec; i < kGates * HQ; i += kWarpSize * kVec) {
    Floats<kVec> d_logit = load_constant<kVec>(p.d_gates + m * kGates * HQ + i);
    const Floats<kVec> gate = load_constant<kVec>(p.gates + m * kGates * HQ + i);
#pragma unroll
    for (int j = 0; j < kVec; ++j) d_logit[j] *= gate[j] * (1.0f - gate[j]);
    store<kVec>(to + i, d_logit);
  }
}

/// Calls f.operator()<vector width, vectors in half a head>(). Wide rows need every part of qkvg on 16 bytes.
template <class F>
void dispatch_head(const Heads& heads, F&& f) {
  if (heads.width() % 8 != 0) return f.template operator()<1, 0>();
  if (heads.D == 64) return f.template operator()<8, 4>();
  if (heads.D == 128) return f.template operator()<8, 8>();
  return f.template operator()<1, 0>();
}

}  // namespace

void qkv_rope_forward(Stream& stream, const QkvRopeForward& p) {
  const std::int64_t B = p.q.dim(0), T = p.q.dim(1), N = (T + p.block_size - 1) / p.block_size;
  const Heads heads{static_cast<int>(p.q.dim(2)), static_cast<int>(p.k.dim(2)), static_cast<int>(p.q.dim(3))};
  const Forward arguments{.q = bf16(p.q),
                          .k = bf16(p.k),
                          .v = bf16(p.v),
                          .k_mean = bf16(p.k_mean),
                          .v_mean = bf16(p.v_mean),
                          .gates = p.gates.as<float>(),
                          .qkvg = bf16(p.qkvg),
                          .positions = p.positions.as<std::int32_t>(),
                          .cos_sin = p.cos_sin.as<float>(),
                          .T = T,
                          .N = N,
                          .block_size = static_cast<int>(p.block_size),
                          .heads = heads};
  dispatch_head(heads, [&]<int kVec, int kChunks>() {
    launch(stream, "qkv_rope_forward", qkv_rope_forward_kernel<kVec, kChunks>,
           {.grid = static_cast<unsigned>(B * N), .block = kThreads}, arguments);
  });
}

void qkv_rope_backward(Stream& stream, const QkvRopeBackward& p) {
  const std::int64_t B = p.d_q.dim(0), T = p.d_q.dim(1);
  const Heads heads{static_cast<int>(p.d_q.dim(2)), static_cast<int>(p.d_k.dim(2)), static_cast<int>(p.d_q.dim(3))};
  const Backward arguments{.d_qkvg = bf16(p.d_qkvg),
                           .d_q = p.d_q.as<float>(),
                           .d_k = p.d_k.as<float>(),
                           .d_v = p.d_v.as<float>(),
                           .d_gates = p.d_gates.as<float>(),
                           .d_k_mean = p.d_k_mean.as_or_null<float>(),
                           .d_v_mean = p.d_v_mean.as_or_null<float>(),
                           .gates = p.gates.as<float>(),
                           .positions = p.positions.as<std::int32_t>(),
                           .cos_sin = p.cos_sin.as<float>(),
                           .T = T,
                           .N = (T + p.block_size - 1) / p.block_size,
                           .M = B * T,
                           .block_size = static_cast<int>(p.block_size),
                           .heads = heads};
  dispatch_head(heads, [&]<int kVec, int kChunks>() {
    launch(stream, "qkv_rope_backward", qkv_rope_backward_kernel<kVec, kChunks>,
           {.grid = blocks_for(B * T, kWarps), .block = kThreads}, arguments);
  });
}

}  // namespace ssa::cuda
