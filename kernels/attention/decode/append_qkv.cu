// A thread takes one pair (i, i + D/2) of a head of q, k or v, or one gate, through all tokens of one sequence: the only
// cache elements it reads back are of its columns. CTAs after those of the columns only start loads for later kernels.
#include "append_qkv.h"
#include "kernels/common/device/l2_prefetch.cuh"
#include "kernels/common/device/launch.cuh"
#include "kernels/common/device/math.cuh"
#include "kernels/common/device/reduce.cuh"
#include "kernels/common/device/vector.cuh"

namespace ssa::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kGates = 3;
constexpr std::int64_t kMostPrefetched = 24 << 20;  ///< bytes: half of an H100's L2

struct AppendArgs {
  __nv_bfloat16* q;
  float* gates;
  __nv_bfloat16 *k_cache, *v_cache, *k_mean, *v_mean;  ///< means: null if absent
  const __nv_bfloat16* qkvg;
  const std::int32_t* positions;
  const float* cos_sin;
  std::int64_t C, N;
  int B, T, HQ, HK, D, block_size;
  int column_ctas;  ///< per sequence
  L2Prefetch prefetch;
};

/// The mean of the block that ends with token `position`, in one column; stride: elements between tokens.
__device__ __forceinline__ __nv_bfloat16 block_mean(const __nv_bfloat16* cache, std::int64_t stride,
                                                    std::int64_t position, int block_size) {
  const __nv_bfloat16* from = cache + (position + 1 - block_size) * stride;
  float sum = 0;
#pragma unroll 16
  for (int u = 0; u < block_size; ++u) sum += __bfloat162float(from[u * stride]);
  return __float2bfloat16_rn(sum / static_cast<float>(block_size));
}

/// First column_ctas CTAs per sequence, then those that start loads.
__global__ void __launch_bounds__(kThreads) append_qkv_kernel(const __grid_constant__ AppendArgs a) {
  wait_for_previous_kernel();
  const int b = static_cast<int>(blockIdx.x) / a.column_ctas, thread = static_cast<int>(threadIdx.x);
  if (b >= a.B) {
    const int before = a.B * a.column_ctas, workers = (static_cast<int>(gridDim.x) - before) * kWarpSize;
    if (thread < kWarpSize) a.prefetch.start((static_cast<int>(blockIdx.x) - before) * kWarpSize + thread, workers);
    return;
  }
  const int half = a.D / 2, pairs = (a.HQ + 2 * a.HK) * half, gates = kGates * a.HQ;
  const int item = (static_cast<int>(blockIdx.x) - b * a.column_ctas) * kThreads + thread;
  if (item >= pairs + gates) return;
  const std::int64_t width = std::int64_t{2} * pairs + gates, stride = std::int64_t{a.HK} * a.D;
  const int head = item / half, d = item % half;
  for (int t = 0; t < a.T; ++t) {
    const std::int64_t query = std::int64_t{b} * a.T + t;
    const __nv_bfloat16* from = a.qkvg + query * width;
    if (item >= pairs) {
      const int gate = item - pairs;
      a.gates[query * gates + gate] = sigmoid(__bfloat162float(from[2 * pairs + gate]));
      continue;
    }
    from += head * a.D + d;
    const float low = __bfloat162float(from[0]), high = __bfloat162float(from[half]);
    const std::int64_t position = a.positions[query];
    const float2 angle = reinterpret_cast<const float2*>(a.cos_sin)[position * half + d];  // cosine, sine
    const float rotated_low = low * angle.x - high * angle.y, rotated_high = high * angle.x + low * angle.y;
    if (head < a.HQ) {
      __nv_bfloat16* to = a.q + (query * a.HQ + head) * a.D + d;
      to[0] = __float2bfloat16_rn(rotated_low);
      to[half] = __float2bfloat16_rn(rotated_high);
      continue;
    }
    const bool is_k = head < a.HQ + a.HK;
    const int column = (head - a.HQ - (is_k ? 0 : a.HK)) * a.D + d;
    __nv_bfloat16* cache = (is_k ? a.k_cache : a.v_cache) + b * a.C * stride + column;
    cache[position * stride] = __float2bfloat16_rn(is_k ? rotated_low : low);
    cache[position * stride + half] = __float2bfloat16_rn(is_k ? rotated_high : high);
    __nv_bfloat16* mean = is_k ? a.k_mean : a.v_mean;
    if (!mean || (position + 1) % a.block_size != 0) continue;
    mean += (b * a.N + position / a.block_size) * stride + column;
    mean[0] = block_mean(cache, stride, position, a.block_size);
    mean[half] = block_mean(cache + half, stride, position, a.block_size);
  }
}

}  // namespace

void append_qkv(Stream& stream, const AppendQkv& p) {
  const std::int64_t B = p.q.dim(0), HQ = p.q.dim(2), D = p.q.dim(3), C = p.k_cache.dim(1), HK = p.k_cache.dim(2);
  const auto columns = ctas_for((HQ + 2 * HK) * (D / 2) + kGates * HQ, kThreads);
  const L2Prefetch prefetch(p.read_later, kMostPrefetched);
  const bool prefetches = prefetch.bytes[0] > 0 || prefetch.bytes[1] > 0 || prefetch.bytes[2] > 0;
  const auto others = prefetches ? static_cast<unsigned>(stream.cuda().properties.multiProcessorCount) : 0;
  const AppendArgs args{.q = bf16(p.q),
                        .gates = p.gates.as<float>(),
                        .k_cache = bf16(p.k_cache),
                        .v_cache = bf16(p.v_cache),
                        .k_mean = bf16(p.k_mean),
                        .v_mean = bf16(p.v_mean),
                        .qkvg = bf16(p.qkvg),
                        .positions = p.positions.as<std::int32_t>(),
                        .cos_sin = p.cos_sin.as<float>(),
                        .C = C,
                        .N = (C + p.block_size - 1) / p.block_size,
                        .B = static_cast<int>(B),
                        .T = static_cast<int>(p.q.dim(1)),
                        .HQ = static_cast<int>(HQ),
                        .HK = static_cast<int>(HK),
                        .D = static_cast<int>(D),
                        .block_size = static_cast<int>(p.block_size),
                        .column_ctas = static_cast<int>(columns),
                        .prefetch = prefetch};
  launch(stream, "append_qkv", append_qkv_kernel,
         {.grid = columns * static_cast<unsigned>(B) + others, .block = kThreads, .waits = true}, args);
}

}  // namespace ssa::cuda
