// Per chunk of tokens: logits by cuBLASLt, loss and d_logits in place by one kernel, then the two gradient products by
// cuBLASLt. README.md explains the kernel in between, which has two variants:
// * row_in_registers_kernel: a row of logits stays in the registers of a cluster of 1, 2, 4 or 8 CTAs between the
//   log-sum-exp and the gradients. For V divisible by 8, up to 131072 (up to 16384 on GPUs without clusters).
// * row_read_twice_kernel: one CTA per row, any V.
// With products in FP8 this kernel leaves the logits as they are, and d_logits_fp8_kernel reads them again in tiles.
#include <algorithm>

#include "kernels/common/device/launch.cuh"
#include "kernels/common/device/math.cuh"
#include "kernels/common/device/reduce.cuh"
#include "kernels/common/device/sum.cuh"
#include "kernels/common/device/vector.cuh"
#include "kernels/common/ptx/cluster.cuh"
#include "kernels/linear_cross_entropy/head_products.h"
#include "kernels/quantize_fp8/fp8_tile.cuh"
#include "linear_cross_entropy.h"

namespace ssa::cuda {
namespace {

// With kDifferentiate, both kernels overwrite logits[m] with gradient_scale * (softmax(logits[m]) -
// onehot(targets[m])). Without, they write (row_max, log2_sum) to sums[m] if `sums` is given. The maximum is subtracted
// before the scaling to base 2: the loss of a certain prediction is then exactly 0.

/// The probability of a logit in its row.
__device__ __forceinline__ float probability(float logit, float row_max, float log2_sum) {
  return exp2_fast(fmaf(logit - row_max, kLog2e, -log2_sum));
}

/// Four CTAs share an SM: while one computes, the others load or store. The bound is on registers, not on CTAs, because
/// some GPUs have room for three, for which the compiler rejects a bound of four.
struct InRegisters {
  static constexpr int kThreads = 512;
  static constexpr int kVectors = 4;  ///< of 8 logits, per thread
#ifdef SSA_RACECHECK
  static constexpr int kRegisters = 64;  // racecheck adds instructions that need registers
#else
  static constexpr int kRegisters = 32;  ///< per thread; half of them contain logits
#endif
  static constexpr int kWarps = kThreads / kWarpSize;
  static constexpr int kLogits = kThreads * kVectors * 8;  ///< per CTA
};

/// Unpacks eight logits with other instructions than load<8>. Sum and gradients both need unpacked logits. With the
/// same instructions the compiler would keep the first results for the second use, and run out of registers.
__device__ __forceinline__ Floats<8> unpack_by_bytes(const uint4& raw) {
  const std::uint32_t pairs[4] = {raw.x, raw.y, raw.z, raw.w};
  Floats<8> out;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    out[2 * i] = __uint_as_float(__byte_perm(pairs[i], 0, 0x1044));
    out[2 * i + 1] = __uint_as_float(__byte_perm(pairs[i], 0, 0x3244));
  }
  return out;
}

/// A cluster of kCtas CTAs takes one row; CTA `rank` takes logits [rank * share, (rank + 1) * share) of it. Every warp
/// sends its maximum and its sum of exponentials relative to that maximum to all CTAs of the cluster. Every warp
/// combines the received pairs in the same order, so that all compute the same row_max and row_sum.
template <int kCtas, bool kDifferentiate>
__global__ void __maxnreg__(InRegisters::kRegisters)
    row_in_registers_kernel(float* losses, float2* sums, __nv_bfloat16* logits, const std::int32_t* targets,
                            std::int64_t V, float gradient_scale) {
  constexpr int kStride = InRegisters::kThreads * 8, kPartials = kCtas * InRegisters::kWarps;
  constexpr int kLine = 64;                               // logits per cache line, which two CTAs should not share
  constexpr std::uint32_t kMinusInfinities = 0xff80ff80;  // two bf16 -infinity
  __shared__ ClusterInbox<kPartials> inbox;               // with one CTA, plain shared memory
  const int m = static_cast<int>(blockIdx.x) / kCtas, rank = static_cast<int>(blockIdx.x) % kCtas;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int share = (static_cast<int>(V) + kCtas * kLine - 1) / (kCtas * kLine) * kLine;
  const int count = min(share, static_cast<int>(V) - rank * share);
  __nv_bfloat16* part = logits + m * V + rank * share;
  const int first = static_cast<int>(threadIdx.x) * 8;

  // Loaded before the target is known, because few tokens are ignored.
  uint4 x[InRegisters::kVectors];
#pragma unroll
  for (int i = 0; i < InRegisters::kVectors; ++i) {
    const int v = first + i * kStride;
    x[i] = v < count ? *reinterpret_cast<const uint4*>(part + v)
                     : make_uint4(kMinusInfinities, kMinusInfinities, kMinusInfinities, kMinusInfinities);
  }

  const std::int32_t target = targets[m];
  if (target == kIgnoredLabel) {
    if (rank == 0 && threadIdx.x == 0) losses[m] = 0;
    if constexpr (kDifferentiate) {
#pragma unroll
      for (int i = 0; i < InRegisters::kVectors; ++i)
        if (first + i * kStride < count) store<8>(part + first + i * kStride, Floats<8>{});
    }
    return;
  }
  if constexpr (kCtas > 1) inbox.open();

  __nv_bfloat162 pair_max = *reinterpret_cast<const __nv_bfloat162*>(&kMinusInfinities);
#pragma unroll
  for (int i = 0; i < InRegisters::kVectors; ++i) {
    const auto* pairs = reinterpret_cast<const __nv_bfloat162*>(&x[i]);
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) pair_max = __hmax2(pair_max, pairs[pair]);
  }
  const float part_max = warp_max(fmaxf(__low2float(pair_max), __high2float(pair_max)));
  const float subtracted = part_max == -INFINITY ? 0.0f : part_max;  // -infinity - -infinity would be NaN
  float sum = 0;
#pragma unroll
  for (int i = 0; i < InRegisters::kVectors; ++i) {
    const Floats<8> values = load<8>(reinterpret_cast<const __nv_bfloat16*>(&x[i]));
#pragma unroll
    for (int j = 0; j < 8; ++j) sum += exp2_fast((values[j] - subtracted) * kLog2e);
  }
  sum = warp_sum(sum);

  if constexpr (kCtas > 1) {
    inbox.wait_until_all_are_open();
    if (lane < kCtas) inbox.send(lane, rank * InRegisters::kWarps + warp, make_float2(part_max, sum));
    inbox.wait_for_values();
  } else {
    if (lane == 0) inbox.values[warp] = make_float2(part_max, sum);
    __syncthreads();
  }
  constexpr int kPerLane = (kPartials + kWarpSize - 1) / kWarpSize;
  float2 partial[kPerLane];
  float row_max = -INFINITY, row_sum = 0;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int index = lane + i * kWarpSize;
    partial[i] = index < kPartials ? inbox.values[index] : make_float2(-INFINITY, 0);
    row_max = fmaxf(row_max, partial[i].x);
  }
  row_max = warp_max(row_max);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i)
    row_sum += partial[i].x == -INFINITY ? partial[i].y : partial[i].y * exp2_fast((partial[i].x - row_max) * kLog2e);
  row_sum = warp_sum(row_sum);
  const float log2_sum = log2f(row_sum);

  const int target_index = target - rank * share;
  const bool owner =
      0 <= target_index && target_index < count && target_index % kStride / 8 == static_cast<int>(threadIdx.x);
  const float target_logit = owner ? __bfloat162float(part[target_index]) : 0.0f;  // before it is overwritten
  if constexpr (kDifferentiate) {
#pragma unroll
    for (int i = 0; i < InRegisters::kVectors; ++i) {
      Floats<8> values = unpack_by_bytes(x[i]);
#pragma unroll
      for (int j = 0; j < 8; ++j) values[j] = gradient_scale * probability(values[j], row_max, log2_sum);
      if (first + i * kStride < count) store<8>(part + first + i * kStride, values);
    }
  }
  if (owner) {
    losses[m] = (row_max - target_logit) + log2_sum * kLn2;
    if constexpr (kDifferentiate)
      part[target_index] = __float2bfloat16_rn(gradient_scale * (probability(target_logit, row_max, log2_sum) - 1.0f));
    else if (sums)
      sums[m] = make_float2(row_max, log2_sum);
  }
}

constexpr int kThreads = 1024;

/// One CTA per row, of any length.
template <int kVec, bool kDifferentiate>
__global__ void __launch_bounds__(kThreads)
    row_read_twice_kernel(float* losses, float2* sums, __nv_bfloat16* logits, const std::int32_t* targets,
                          std::int64_t V, float gradient_scale) {
  __shared__ float shared[2][kThreads / kWarpSize];
  constexpr std::int64_t kStride = kThreads * kVec;
  const std::int64_t first = static_cast<std::int64_t>(threadIdx.x) * kVec;
  __nv_bfloat16* row = logits + blockIdx.x * V;
  const std::int32_t target = targets[blockIdx.x];
  if (target == kIgnoredLabel) {
    if (threadIdx.x == 0) losses[blockIdx.x] = 0;
    if constexpr (kDifferentiate)
      for (std::int64_t v = first; v < V; v += kStride) store<kVec>(row + v, Floats<kVec>{});
    return;
  }
  const float target_logit = __bfloat162float(row[target]);

  // Online softmax: the maximum of this thread's logits so far, and the sum of exponentials relative to it.
  float thread_max = -INFINITY, sum = 0;
#pragma unroll 4
  for (std::int64_t v = first; v < V; v += kStride) {
    Floats<kVec> x = load<kVec>(row + v);
    float vector_max = x[0];
#pragma unroll
    for (int i = 1; i < kVec; ++i) vector_max = fmaxf(vector_max, x[i]);
    if (vector_max > thread_max) {
      sum *= exp2_fast((thread_max - vector_max) * kLog2e);
      thread_max = vector_max;
    }
#pragma unroll
    for (int i = 0; i < kVec; ++i) sum += exp2_fast((x[i] - thread_max) * kLog2e);
  }
  const float row_max = block_max<kThreads>(thread_max, shared[0]);
  const float row_sum =
      block_sum<kThreads>(thread_max == -INFINITY ? 0.0f : sum * exp2_fast((thread_max - row_max) * kLog2e), shared[1]);
  const float log2_sum = log2f(row_sum);
  if (threadIdx.x == 0) losses[blockIdx.x] = (row_max - target_logit) + log2_sum * kLn2;
  if constexpr (kDifferentiate) {
    // Every thread has read the row: block_sum has a barrier.
#pragma unroll 4
    for (std::int64_t v = first; v < V; v += kStride) {
      Floats<kVec> x = load<kVec>(row + v);
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        const float p = probability(x[i], row_max, log2_sum);
        x[i] = gradient_scale * (v + i == target ? p - 1.0f : p);
      }
      store<kVec>(row + v, x);
    }
  } else {
    if (sums && threadIdx.x == 0) sums[blockIdx.x] = make_float2(row_max, log2_sum);
  }
}

/// d_logits of a tile of 128 tokens and 128 ids, in FP8, plain and transposed. Rounded to bf16 first, as quantize_fp8
/// would find them in memory. Rows of logits are padded to `stride`, a multiple of 8, with -infinity, whose gradients
/// are 0.
__global__ void __launch_bounds__(kFp8TileThreads)
    d_logits_fp8_kernel(Fp8Target plain, Fp8Target transposed, const __nv_bfloat16* logits, const std::int32_t* targets,
                        const float2* sums, int tokens, int V, std::int64_t stride, float gradient_scale) {
  __shared__ alignas(16) Fp8TileShared shared;
  const Fp8TilePlace at;
  uint4 tile[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    tile[i] = {};
    if (at.row + i >= tokens || at.column >= V) continue;  // a vector that begins before V ends before `stride`
    const std::int32_t target = __ldg(targets + at.row + i);
    if (target == kIgnoredLabel) continue;
    const float2 sum = __ldg(sums + at.row + i);
    Floats<8> x = load_constant<8>(logits + (at.row + i) * stride + at.column);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float p = probability(x[j], sum.x, sum.y);
      x[j] = gradient_scale * (at.column + j == target ? p - 1.0f : p);
    }
    tile[i] = pack_bf16(x);
  }
  quantize_tile<true, true, Fp8Sizes::any>(plain, transposed, shared, tile, at.tile_row, at.tile_column, tokens, V);
}

constexpr int kPaddingThreads = 256;

/// Sets columns [V, stride) of the logits to -infinity: the two kernels above take them as further ids, of probability
/// 0.
__global__ void __launch_bounds__(kPaddingThreads)
    fill_padding_kernel(__nv_bfloat16* logits, std::int64_t tokens, std::int64_t V, std::int64_t stride) {
  const std::int64_t m = static_cast<std::int64_t>(blockIdx.x) * kPaddingThreads + threadIdx.x;
  if (m >= tokens) return;
  for (std::int64_t v = V; v < stride; ++v) logits[m * stride + v] = __float2bfloat16_rn(-INFINITY);
}

struct Choice {
  void (*kernel)(float*, float2*, __nv_bfloat16*, const std::int32_t*, std::int64_t, float);
  unsigned ctas;  ///< per row
  unsigned threads;
};

template <bool kDifferentiate>
Choice choose_kernel(Stream& stream, const char* op, std::int64_t V) {
  const auto fits = [V](int ctas) { return V % 8 == 0 && V <= std::int64_t{ctas} * InRegisters::kLogits; };
  if (fits(1)) return {row_in_registers_kernel<1, kDifferentiate>, 1, InRegisters::kThreads};
  if (fits(kMaxCluster) && !stream.cuda().force_generic &&
      knows_clusters(op, row_in_registers_kernel<kMaxCluster, kDifferentiate>)) {
    if (fits(2)) return {row_in_registers_kernel<2, kDifferentiate>, 2, InRegisters::kThreads};
    if (fits(4)) return {row_in_registers_kernel<4, kDifferentiate>, 4, InRegisters::kThreads};
    return {row_in_registers_kernel<kMaxCluster, kDifferentiate>, kMaxCluster, InRegisters::kThreads};
  }
  if (V % 8 == 0) return {row_read_twice_kernel<8, kDifferentiate>, 1, kThreads};
  return {row_read_twice_kernel<1, kDifferentiate>, 1, kThreads};
}

}  // namespace

void linear_cross_entropy(Stream& stream, const LinearCrossEntropy& p) {
  constexpr auto op = "linear_cross_entropy";
  const std::int64_t M = p.hidden.dim(0), V = p.weight.dim(0), chunk = p.logits.dim(0), stride = p.logits.dim(1);
  const bool in_place = p.d_hidden && !p.fp8;
  auto* sums = p.fp8 ? static_cast<float2*>(stream.scratch(scratch_bytes(p))) : nullptr;
  float* losses = p.losses ? p.losses.as<float>()
                  : p.fp8  ? reinterpret_cast<float*>(sums + chunk)
                           : static_cast<float*>(stream.scratch(scratch_bytes(p)));
  const Choice choice = in_place ? choose_kernel<true>(stream, op, stride) : choose_kernel<false>(stream, op, stride);
  prepare_head(stream, p);
  for (std::int64_t begin = 0; begin < M; begin += chunk) {
    const HeadChunk part(p, begin, std::min(M, begin + chunk));
    const std::int64_t tokens = part.end - begin;
    const std::int32_t* targets = p.targets.as<std::int32_t>() + begin;
    head_logits(stream, p, part);
    if (stride > V)
      launch(stream, op, fill_padding_kernel, {.grid = ctas_for(tokens, kPaddingThreads), .block = kPaddingThreads},
             bf16(part.logits), tokens, V, stride);
    launch(stream, op, choice.kernel,
           {.grid = static_cast<unsigned>(tokens) * choice.ctas, .block = choice.threads, .cluster = choice.ctas},
           losses + begin, sums, bf16(part.logits), targets, stride, p.gradient_scale);
    if (p.fp8)
      launch(stream, op, d_logits_fp8_kernel, fp8_tiles(tokens, V), Fp8Target(part.d_logits_fp8),
             Fp8Target(part.d_logits_t_fp8), bf16(part.logits), targets, sums, tokens, V, stride, p.gradient_scale);
    if (p.d_hidden) head_gradients(stream, p, part);
  }
  add_sum(stream, op, p.loss_sum.as<double>(), losses, M);
}

}  // namespace ssa::cuda
