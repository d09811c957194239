// What append_qkv and append_select have in common.
#pragma once

#include "append_qkv.h"
#include "kernels/common/device/l2_prefetch.cuh"
#include "kernels/common/device/launch.cuh"
#include "kernels/common/device/math.cuh"
#include "kernels/common/device/reduce.cuh"
#include "kernels/common/device/vector.cuh"

namespace ssa::cuda {

inline constexpr int kGates = 3;

/// Elements i and i + D/2 of a head, which RoPE rotates.
struct ElementPair {
  float low, high;
};

__device__ __forceinline__ ElementPair load_pair(const __nv_bfloat16* from, int half) {
  return {__bfloat162float(from[0]), __bfloat162float(from[half])};
}

__device__ __forceinline__ void store_pair(__nv_bfloat16* to, int half, const ElementPair& x) {
  to[0] = __float2bfloat16_rn(x.low);
  to[half] = __float2bfloat16_rn(x.high);
}

/// angle: cosine, sine.
__device__ __forceinline__ ElementPair rotate(const ElementPair& x, const float2& angle) {
  return {x.low * angle.x - x.high * angle.y, x.high * angle.x + x.low * angle.y};
}

struct AppendArgs {
  static constexpr std::int64_t kMostPrefetched = 24 << 20;  ///< bytes: half of an H100's L2

  __nv_bfloat16* q;
  float* gates;
  __nv_bfloat16 *k_cache, *v_cache, *k_mean, *v_mean;  ///< means: null if absent
  const __nv_bfloat16* qkvg;
  const std::int32_t* positions;
  const float* cos_sin;
  std::int64_t C, N;
  int B, T, HQ, HK, D, block_size;
  L2Prefetch prefetch;

  explicit AppendArgs(const AppendQkv& p)
      : q(bf16(p.q)),
        gates(p.gates.as<float>()),
        k_cache(bf16(p.k_cache)),
        v_cache(bf16(p.v_cache)),
        k_mean(bf16(p.k_mean)),
        v_mean(bf16(p.v_mean)),
        qkvg(bf16(p.qkvg)),
        positions(p.positions.as<std::int32_t>()),
        cos_sin(p.cos_sin.as<float>()),
        C(p.k_cache.dim(1)),
        N((C + p.block_size - 1) / p.block_size),
        B(static_cast<int>(p.q.dim(0))),
        T(static_cast<int>(p.q.dim(1))),
        HQ(static_cast<int>(p.q.dim(2))),
        HK(static_cast<int>(p.k_cache.dim(2))),
        D(static_cast<int>(p.q.dim(3))),
        block_size(static_cast<int>(p.block_size)),
        prefetch(p.read_later, kMostPrefetched) {}

  /// Elements of a row of qkvg.
  __device__ __forceinline__ std::int64_t width() const { return std::int64_t{HQ + 2 * HK} * D + kGates * HQ; }

  __device__ __forceinline__ float2 angle(int position, int d) const {
    return reinterpret_cast<const float2*>(cos_sin)[static_cast<std::int64_t>(position) * (D / 2) + d];
  }

  /// Writes columns `column` and column + D/2 of a token to a cache, and those of the mean of the block that it ends.
  __device__ __forceinline__ void append(__nv_bfloat16* cache, __nv_bfloat16* mean, std::int64_t b, int position,
                                         int column, const ElementPair& x) const {
    const std::int64_t stride = std::int64_t{HK} * D;
    cache += b * C * stride + column;
    store_pair(cache + position * stride, D / 2, x);
    if (!mean || (position + 1) % block_size != 0) return;
    mean += (b * N + position / block_size) * stride + column;
    mean[0] = block_mean(cache, position);
    mean[D / 2] = block_mean(cache + D / 2, position);
  }

 private:
  /// The mean of the block that ends with token `position`, in one column.
  __device__ __forceinline__ __nv_bfloat16 block_mean(const __nv_bfloat16* cache, int position) const {
    const std::int64_t stride = std::int64_t{HK} * D;
    const __nv_bfloat16* from = cache + (position + 1 - block_size) * stride;
    float sum = 0;
#pragma unroll 16
    for (int u = 0; u < block_size; ++u) sum += __bfloat162float(from[u * stride]);
    return __float2bfloat16_rn(sum / static_cast<float>(block_size));
  }
};

}  // namespace ssa::cuda
