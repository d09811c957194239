// One CTA per token, one 16-byte vector per thread where H allows it: each element is read once and written once.
// rmsnorm_fp8.cu writes FP8. For wide rows, and where clusters do not fit, this file does: where the output of the
// forward is written transposed, that kernel writes residual and rstd only, and a second one writes the output in tiles
// of 128 tokens and 128 columns. d_residual is rounded in a pass of its own.
// A CTA of the backward takes many tokens and keeps its partial sum of d_weight in registers; a second kernel adds the
// partial sums of all CTAs in a fixed order.
#include <algorithm>

#include "kernels/common/device/launch.cuh"
#include "kernels/common/device/reduce.cuh"
#include "kernels/common/device/vector.cuh"
#include "kernels/quantize_fp8/fp8_tile.cuh"
#include "kernels/quantize_fp8/quantize_fp8.h"
#include "rmsnorm.h"
#include "rmsnorm_fp8.cuh"

namespace ssa::cuda {
namespace {

constexpr int kMaxThreads = 1024;

/// A thread takes vectors threadIdx.x, threadIdx.x + kThreads, ... of kVec columns. With kOne there is at most one, and
/// it stays in registers between the sum and the output.
template <int kVec, int kThreads, bool kOne>
__global__ void __launch_bounds__(kThreads)
    rmsnorm_forward_kernel(__nv_bfloat16* out, float* rstd, __nv_bfloat16* residual, const __nv_bfloat16* x,
                           const __nv_bfloat16* delta, const __nv_bfloat16* weight, int H, float inverse_H, float eps,
                           Fp8Target fp8) {
  __shared__ float shared[kThreads / kWarpSize];
  wait_for_previous_kernel();
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * H;
  const int first = static_cast<int>(threadIdx.x) * kVec;
  constexpr int kStride = kThreads * kVec;
  Floats<kVec> value{};
  float sum = 0;
  for (int h = first; h < H; h += kStride) {
    value = load<kVec>(x + row + h);
    if (delta) {
      const Floats<kVec> d = load<kVec>(delta + row + h);
#pragma unroll
      for (int i = 0; i < kVec; ++i) value[i] = round_bf16(value[i] + d[i]);
      store<kVec>(residual + row + h, value);
    }
#pragma unroll
    for (int i = 0; i < kVec; ++i) sum += value[i] * value[i];
    if constexpr (kOne) break;
  }
  const float r = rsqrtf(block_sum<kThreads>(sum, shared) * inverse_H + eps);
  if (threadIdx.x == 0) rstd[blockIdx.x] = r;
  if (!out) return;
  for (int h = first; h < H; h += kStride) {
    if constexpr (!kOne) value = load<kVec>((delta ? residual : x) + row + h);  // this thread wrote it
    const Floats<kVec> w = load<kVec>(weight + h);
    Floats<kVec> y;
#pragma unroll
    for (int i = 0; i < kVec; ++i) y[i] = value[i] * r * w[i];
    store<kVec>(out + row + h, y);
    if constexpr (kVec == 8)
      if (fp8.values) store_row_block(fp8, y, blockIdx.x, h, H);
    if constexpr (kOne) break;
  }
}

/// The normalized tokens in FP8, plain and transposed, and in bf16 if `out` is given.
__global__ void __launch_bounds__(kFp8TileThreads)
    rmsnorm_forward_fp8_kernel(Fp8Target fp8, Fp8Target fp8_t, __nv_bfloat16* out, const __nv_bfloat16* residual,
                               const float* rstd, const __nv_bfloat16* weight, int M, int H) {
  __shared__ alignas(16) Fp8TileShared shared;
  const Fp8TilePlace at;
  const Floats<8> w = load_constant<8>(weight + at.column);
  uint4 tile[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    tile[i] = {};
    if (at.row >= M) continue;
    const std::int64_t first = std::int64_t{at.row + i} * H + at.column;
    const float r = __ldg(rstd + at.row + i);
    Floats<8> y = load_constant<8>(residual + first);
#pragma unroll
    for (int j = 0; j < 8; ++j) y[j] = y[j] * r * w[j];
    tile[i] = pack_bf16(y);
    if (out) *reinterpret_cast<uint4*>(out + first) = tile[i];
  }
  quantize_tile<true, true>(fp8, fp8_t, shared, tile, at.tile_row, at.tile_column, M, H);
}

/// CTAs of the backward that run on an SM at a time, which bounds the registers per thread.
constexpr int backward_ctas(int threads) { return kMaxThreads * 5 / 4 / threads; }

/// CTA b takes tokens b, b + gridDim.x, ... and writes its sum of d_out * n to partials[b]. Without kOne it accumulates
/// in partials[b], which must be zero before the launch.
template <int kVec, int kThreads, bool kOne>
__global__ void __launch_bounds__(kThreads, backward_ctas(kThreads))
    rmsnorm_backward_kernel(__nv_bfloat16* d_residual, float* partials, const __nv_bfloat16* d_out,
                            const __nv_bfloat16* residual, const float* rstd, const __nv_bfloat16* weight,
                            std::int64_t M, int H, float inverse_H) {
  __shared__ float shared[2][kThreads / kWarpSize];
  const int first = static_cast<int>(threadIdx.x) * kVec;
  float* partial = partials + static_cast<std::int64_t>(blockIdx.x) * H;
  int buffer = 0;  // alternates, so that one barrier per token is enough
  if constexpr (kOne) {
    Floats<kVec> d_weight{};
    const bool active = first < H;
    for (std::int64_t m = blockIdx.x; m < M; m += gridDim.x, buffer ^= 1) {
      Floats<kVec> n{}, g{}, d_x{};
      const float scale = __ldg(rstd + m);
      float sum = 0;
      if (active) {
        n = load_constant<kVec>(residual + m * H + first);
        g = load_constant<kVec>(d_out + m * H + first);
        d_x = load<kVec>(d_residual + m * H + first);
        const Floats<kVec> w = load_constant<kVec>(weight + first);  // from L1: cheaper than keeping it in registers
#pragma unroll
        for (int i = 0; i < kVec; ++i) {
          n[i] *= scale;
          d_weight[i] += g[i] * n[i];
          g[i] *= w[i];
          sum += g[i] * n[i];
        }
      }
      const float mean = block_sum<kThreads>(sum, shared[buffer]) * inverse_H;
#pragma unroll
      for (int i = 0; i < kVec; ++i) d_x[i] += scale * (g[i] - n[i] * mean);
      if (active) store<kVec>(d_residual + m * H + first, d_x);
    }
    if (active) store<kVec>(partial + first, d_weight);
  } else {
    constexpr int kStride = kThreads * kVec;
    for (std::int64_t m = blockIdx.x; m < M; m += gridDim.x, buffer ^= 1) {
      const std::int64_t row = m * H;
      const float scale = rstd[m];
      float sum = 0;
      for (int h = first; h < H; h += kStride) {
        const Floats<kVec> x = load<kVec>(residual + row + h), g = load<kVec>(d_out + row + h),
                           w = load<kVec>(weight + h);
        Floats<kVec> d_weight = load<kVec>(partial + h);
#pragma unroll
        for (int i = 0; i < kVec; ++i) {
          d_weight[i] += g[i] * x[i] * scale;
          sum += g[i] * w[i] * x[i] * scale;
        }
        store<kVec>(partial + h, d_weight);
      }
      const float mean = block_sum<kThreads>(sum, shared[buffer]) * inverse_H;
      for (int h = first; h < H; h += kStride) {
        const Floats<kVec> x = load<kVec>(residual + row + h), g = load<kVec>(d_out + row + h),
                           w = load<kVec>(weight + h);
        Floats<kVec> d_x = load<kVec>(d_residual + row + h);
#pragma unroll
        for (int i = 0; i < kVec; ++i) d_x[i] += scale * (g[i] * w[i] - x[i] * scale * mean);
        store<kVec>(d_residual + row + h, d_x);
      }
    }
  }
}

constexpr int kColumns = 16, kGroups = 8;  // of add_partials: few columns per CTA, so that most SMs get one

/// out[h] += sum over b of partials[b][h]: each thread group adds its partial sums in order, then the groups are added
/// in order. The kernel is bound by L2 latency, so a thread has kBatch loads in flight; loads past the end read the
/// last partial sum again. Offsets fit int: kRmsNormMaxPartials sums of up to 2^21 columns.
__global__ void __launch_bounds__(kColumns* kGroups, 4)
    add_partials_kernel(float* out, const float* partials, int count, int H) {
  __shared__ float shared[kGroups][kColumns];
  constexpr int kBatch = 28;  // three rounds for the 660 CTAs of 132 SMs
  const int column = static_cast<int>(threadIdx.x) % kColumns, group = static_cast<int>(threadIdx.x) / kColumns;
  const int h = static_cast<int>(blockIdx.x) * kColumns + column, read = min(h, H - 1);
  const float before = out[read];
  float sum = 0;
#pragma unroll 1
  for (int first = group; first < count; first += kBatch * kGroups) {
    float loaded[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) loaded[i] = __ldg(partials + min(first + i * kGroups, count - 1) * H + read);
#pragma unroll
    for (int i = 0; i < kBatch; ++i)
      if (first + i * kGroups < count) sum += loaded[i];
  }
  shared[group][column] = sum;
  __syncthreads();
  if (group == 0 && h < H) {
#pragma unroll
    for (int other = 1; other < kGroups; ++other) sum += shared[other][column];
    out[h] = before + sum;
  }
}

/// Calls f.operator()<vector width, threads, at most one vector per thread>() for rows of H elements.
template <class F>
void dispatch_width(std::int64_t H, F&& f) {
  if (H % 8 != 0) return f.template operator()<1, 256, false>();
  if (H <= 8 * 128) return f.template operator()<8, 128, true>();
  if (H <= 8 * 256) return f.template operator()<8, 256, true>();
  if (H <= 8 * 512) return f.template operator()<8, 512, true>();
  if (H <= 8 * kMaxThreads) return f.template operator()<8, kMaxThreads, true>();
  return f.template operator()<8, kMaxThreads, false>();
}

}  // namespace

void rmsnorm_forward(Stream& stream, const RmsNormForward& p) {
  const std::int64_t M = p.x.dim(0), H = p.x.dim(1);
  if (p.fp8 && rmsnorm_has_clusters(stream, H)) return rmsnorm_forward_in_clusters(stream, p);
  dispatch_width(H, [&]<int kVec, int kThreads, bool kOne>() {
    launch(stream, "rmsnorm_forward", rmsnorm_forward_kernel<kVec, kThreads, kOne>,
           {.grid = static_cast<unsigned>(M), .block = kThreads, .waits = true}, p.fp8_t ? nullptr : bf16(p.out),
           p.rstd.as<float>(), bf16(p.residual), bf16(p.x), bf16(p.delta), bf16(p.weight), H,
           1.0f / static_cast<float>(H), p.eps, Fp8Target(p.fp8));
  });
  if (p.fp8_t)
    launch(stream, "rmsnorm_forward", rmsnorm_forward_fp8_kernel, fp8_tiles(M, H), Fp8Target(p.fp8), Fp8Target(p.fp8_t),
           bf16(p.out), bf16(p.delta ? p.residual : p.x), p.rstd.as<float>(), bf16(p.weight), M, H);
}

namespace {

void add_partials(Stream& stream, const RmsNormBackward& p, const float* partials, std::int64_t count) {
  const std::int64_t H = p.d_out.dim(1);
  launch(stream, "rmsnorm_backward", add_partials_kernel, {.grid = ctas_for(H, kColumns), .block = kColumns * kGroups},
         p.d_weight.as<float>(), partials, count, H);
}

}  // namespace

void rmsnorm_backward(Stream& stream, const RmsNormBackward& p) {
  const std::int64_t M = p.d_out.dim(0), H = p.d_out.dim(1);
  if (p.fp8 && rmsnorm_has_clusters(stream, H)) {
    const std::int64_t blocks = fp8_blocks_of(M);
    auto* partials = static_cast<float*>(stream.scratch(static_cast<std::size_t>(blocks * H) * sizeof(float)));
    rmsnorm_backward_in_clusters(stream, p, partials);
    return add_partials(stream, p, partials, blocks);
  }
  dispatch_width(H, [&]<int kVec, int kThreads, bool kFits>() {
    constexpr bool kOne = kFits && kThreads < kMaxThreads;  // with 1024 threads there are too few registers
    const std::int64_t resident = std::int64_t{stream.cuda().properties.multiProcessorCount} * backward_ctas(kThreads);
    const std::int64_t ctas = std::min({M, resident, kRmsNormMaxPartials});
    const std::size_t bytes = static_cast<std::size_t>(ctas * H) * sizeof(float);
    auto* partials = static_cast<float*>(stream.scratch(bytes));
    if (!kOne) stream.zero(Tensor(partials, DType::f32, {ctas, H}));
    launch(stream, "rmsnorm_backward", rmsnorm_backward_kernel<kVec, kThreads, kOne>,
           {.grid = static_cast<unsigned>(ctas), .block = kThreads}, bf16(p.d_residual), partials, bf16(p.d_out),
           bf16(p.residual), p.rstd.as<float>(), bf16(p.weight), M, H, 1.0f / static_cast<float>(H));
    add_partials(stream, p, partials, ctas);
  });
  if (p.fp8) cuda::quantize_fp8(stream, {.plain = p.fp8, .transposed = p.fp8_t, .x = p.d_residual});
}

}  // namespace ssa::cuda
