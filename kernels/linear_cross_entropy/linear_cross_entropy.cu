// Per chunk of tokens: logits by cuBLASLt, loss and d_logits in place by one kernel, then the two gradient products.
//
// The kernel between them is bound by memory, and a row of logits (256 KB for 128256 ids) is needed twice: for the
// log-sum-exp, and to be overwritten. Two kernels:
// * held_cross_entropy_kernel keeps the row in registers between the two, so that memory sees one read and one write.
//   A row is spread over the 1, 2, 4 or 8 blocks of a cluster, as few as hold it; they exchange maxima and sums through
//   shared memory. It runs where 8 divides V and V is at most 131072, on GPUs before compute capability 9.0, which have
//   no clusters, at most 16384.
// * reread_cross_entropy_kernel runs elsewhere: a block a row, which is read a second time. The rows in flight have to
//   fit in L2 together to be read from memory once.
#include <algorithm>

#include "kernels/common/device/launch.cuh"
#include "kernels/common/device/math.cuh"
#include "kernels/common/device/reduce.cuh"
#include "kernels/common/device/sum.cuh"
#include "kernels/common/device/vector.cuh"
#include "kernels/common/ptx/cluster.cuh"
#include "kernels/matmul/matmul.h"
#include "linear_cross_entropy.h"

namespace ssa::cuda {
namespace {

constexpr std::int32_t kIgnored = -100;

// With kDifferentiate, both kernels make logits[m] gradient_scale * (softmax(logits[m]) - onehot(targets[m])). The
// difference to a maximum is taken before it is scaled to powers of two: a row with one likely logit then has a loss of
// 0, not of a rounding error.

/// Four blocks share an SM: while one computes, others wait for their part of a row or write it. (The registers are
/// given, not the blocks: some GPUs have room for three, and the compiler refuses to be told four.)
struct Held {
  static constexpr int kThreads = 512;
  static constexpr int kVectors = 4;  ///< of 8 logits, a thread
#ifdef SSA_RACECHECK
  static constexpr int kRegisters = 64;  // what racecheck adds to the code needs some
#else
  static constexpr int kRegisters = 32;  ///< a thread; half of them hold logits
#endif
  static constexpr int kWarps = kThreads / kWarpSize;
  static constexpr int kLogits = kThreads * kVectors * 8;  ///< a block
};

/// Eight logits, in other instructions than load<8> has. The sum needs them unpacked and the gradients need them again;
/// of equal instructions the compiler would keep the results in between, more than there are registers.
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

/// Block `rank` of a row's kBlocks holds logits [rank * share, (rank + 1) * share), as far as there are any. Every warp
/// sends its maximum and its sum of exponentials below that to all blocks of the cluster, and every warp combines what
/// has come in the same order: all find the same maximum and sum of the row.
template <int kBlocks, bool kDifferentiate>
__global__ void __maxnreg__(Held::kRegisters)
    held_cross_entropy_kernel(float* losses, __nv_bfloat16* logits, const std::int32_t* targets, std::int64_t V,
                              float gradient_scale) {
  constexpr int kStride = Held::kThreads * 8, kPartials = kBlocks * Held::kWarps;
  constexpr int kLine = 64;                       // logits in a cache line, of which no two blocks should have a part
  constexpr std::uint32_t kNothing = 0xff80ff80;  // two of -infinity
  __shared__ ClusterInbox<kPartials> inbox;       // in lone blocks, only memory
  const int m = static_cast<int>(blockIdx.x) / kBlocks, rank = static_cast<int>(blockIdx.x) % kBlocks;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int share = (static_cast<int>(V) + kBlocks * kLine - 1) / (kBlocks * kLine) * kLine;
  const int count = min(share, static_cast<int>(V) - rank * share);
  __nv_bfloat16* part = logits + m * V + rank * share;
  const int first = static_cast<int>(threadIdx.x) * 8;

  // Before the target is known: few are ignored.
  uint4 x[Held::kVectors];
#pragma unroll
  for (int i = 0; i < Held::kVectors; ++i) {
    const int v = first + i * kStride;
    x[i] = v < count ? *reinterpret_cast<const uint4*>(part + v) : make_uint4(kNothing, kNothing, kNothing, kNothing);
  }

  const std::int32_t target = targets[m];
  if (target == kIgnored) {
    if (rank == 0 && threadIdx.x == 0) losses[m] = 0;
    if constexpr (kDifferentiate) {
#pragma unroll
      for (int i = 0; i < Held::kVectors; ++i)
        if (first + i * kStride < count) store<8>(part + first + i * kStride, Floats<8>{});
    }
    return;
  }
  if constexpr (kBlocks > 1) inbox.open();

  __nv_bfloat162 highest = *reinterpret_cast<const __nv_bfloat162*>(&kNothing);
#pragma unroll
  for (int i = 0; i < Held::kVectors; ++i) {
    const auto* pairs = reinterpret_cast<const __nv_bfloat162*>(&x[i]);
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) highest = __hmax2(highest, pairs[pair]);
  }
  const float top = warp_max(fmaxf(__low2float(highest), __high2float(highest)));
  const float reference = top == -INFINITY ? 0.0f : top;  // infinities have no difference
  float sum = 0;
#pragma unroll
  for (int i = 0; i < Held::kVectors; ++i) {
    const Floats<8> values = load<8>(reinterpret_cast<const __nv_bfloat16*>(&x[i]));
#pragma unroll
    for (int j = 0; j < 8; ++j) sum += exp2_fast((values[j] - reference) * kLog2e);
  }
  sum = warp_sum(sum);

  if constexpr (kBlocks > 1) {
    inbox.wait_until_all_are_open();
    if (lane < kBlocks) inbox.send(lane, rank * Held::kWarps + warp, make_float2(top, sum));
    inbox.wait_for_values();
  } else {
    if (lane == 0) inbox.values[warp] = make_float2(top, sum);
    __syncthreads();
  }
  constexpr int kPerLane = (kPartials + kWarpSize - 1) / kWarpSize;
  float2 partial[kPerLane];
  float row_top = -INFINITY, row_sum = 0;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int index = lane + i * kWarpSize;
    partial[i] = index < kPartials ? inbox.values[index] : make_float2(-INFINITY, 0);
    row_top = fmaxf(row_top, partial[i].x);
  }
  row_top = warp_max(row_top);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i)
    row_sum += partial[i].x == -INFINITY ? partial[i].y : partial[i].y * exp2_fast((partial[i].x - row_top) * kLog2e);
  row_sum = warp_sum(row_sum);
  const float log2_sum = log2f(row_sum);

  const auto probability = [&](float logit) { return exp2_fast(fmaf(logit - row_top, kLog2e, -log2_sum)); };
  const int place = target - rank * share;
  const bool owner = 0 <= place && place < count && place % kStride / 8 == static_cast<int>(threadIdx.x);
  const float target_logit = owner ? __bfloat162float(part[place]) : 0.0f;  // this thread overwrites it
  if constexpr (kDifferentiate) {
#pragma unroll
    for (int i = 0; i < Held::kVectors; ++i) {
      Floats<8> values = unpack_by_bytes(x[i]);
#pragma unroll
      for (int j = 0; j < 8; ++j) values[j] = gradient_scale * probability(values[j]);
      if (first + i * kStride < count) store<8>(part + first + i * kStride, values);
    }
  }
  if (owner) {
    losses[m] = (row_top - target_logit) + log2_sum * kLn2;
    if constexpr (kDifferentiate)
      part[place] = __float2bfloat16_rn(gradient_scale * (probability(target_logit) - 1.0f));
  }
}

constexpr int kThreads = 1024;

/// One block a row, of any length.
template <int kVec, bool kDifferentiate>
__global__ void __launch_bounds__(kThreads)
    reread_cross_entropy_kernel(float* losses, __nv_bfloat16* logits, const std::int32_t* targets, std::int64_t V,
                                float gradient_scale) {
  __shared__ float shared[2][kThreads / kWarpSize];
  constexpr std::int64_t kStride = kThreads * kVec;
  const std::int64_t first = static_cast<std::int64_t>(threadIdx.x) * kVec;
  __nv_bfloat16* row = logits + blockIdx.x * V;
  const std::int32_t target = targets[blockIdx.x];
  if (target == kIgnored) {
    if (threadIdx.x == 0) losses[blockIdx.x] = 0;
    if constexpr (kDifferentiate)
      for (std::int64_t v = first; v < V; v += kStride) store<kVec>(row + v, Floats<kVec>{});
    return;
  }
  const float target_logit = __bfloat162float(row[target]);

  // Running maximum of this thread's logits, and sum of exponentials below it.
  float top = -INFINITY, sum = 0;
#pragma unroll 4
  for (std::int64_t v = first; v < V; v += kStride) {
    Floats<kVec> x = load<kVec>(row + v);
    float highest = x[0];
#pragma unroll
    for (int i = 1; i < kVec; ++i) highest = fmaxf(highest, x[i]);
    if (highest > top) {
      sum *= exp2_fast((top - highest) * kLog2e);
      top = highest;
    }
#pragma unroll
    for (int i = 0; i < kVec; ++i) sum += exp2_fast((x[i] - top) * kLog2e);
  }
  const float row_top = block_max<kThreads>(top, shared[0]);
  const float row_sum =
      block_sum<kThreads>(top == -INFINITY ? 0.0f : sum * exp2_fast((top - row_top) * kLog2e), shared[1]);
  const float log2_sum = log2f(row_sum);
  if (threadIdx.x == 0) losses[blockIdx.x] = (row_top - target_logit) + log2_sum * kLn2;
  if constexpr (kDifferentiate) {
    // Everybody has read the row: block_sum waits for all.
#pragma unroll 4
    for (std::int64_t v = first; v < V; v += kStride) {
      Floats<kVec> x = load<kVec>(row + v);
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        const float p = exp2_fast(fmaf(x[i] - row_top, kLog2e, -log2_sum));
        x[i] = gradient_scale * (v + i == target ? p - 1.0f : p);
      }
      store<kVec>(row + v, x);
    }
  }
}

struct Choice {
  void (*kernel)(float*, __nv_bfloat16*, const std::int32_t*, std::int64_t, float);
  unsigned blocks;  ///< a row
  unsigned threads;
};

template <bool kDifferentiate>
Choice choose_kernel(const char* op, std::int64_t V) {
  const auto fits = [V](int blocks) { return V % 8 == 0 && V <= std::int64_t{blocks} * Held::kLogits; };
  if (fits(1)) return {held_cross_entropy_kernel<1, kDifferentiate>, 1, Held::kThreads};
  if (fits(kMaxCluster) && knows_clusters(op, held_cross_entropy_kernel<kMaxCluster, kDifferentiate>)) {
    if (fits(2)) return {held_cross_entropy_kernel<2, kDifferentiate>, 2, Held::kThreads};
    if (fits(4)) return {held_cross_entropy_kernel<4, kDifferentiate>, 4, Held::kThreads};
    return {held_cross_entropy_kernel<kMaxCluster, kDifferentiate>, kMaxCluster, Held::kThreads};
  }
  if (V % 8 == 0) return {reread_cross_entropy_kernel<8, kDifferentiate>, 1, kThreads};
  return {reread_cross_entropy_kernel<1, kDifferentiate>, 1, kThreads};
}

}  // namespace

void linear_cross_entropy(Stream& stream, const LinearCrossEntropy& p) {
  constexpr auto op = "linear_cross_entropy";
  const std::int64_t M = p.hidden.dim(0), V = p.weight.dim(0), chunk = p.logits.dim(0);
  const bool differentiate = static_cast<bool>(p.d_hidden);
  float* losses = p.losses
                      ? p.losses.as<float>()
                      : static_cast<float*>(stream.scratch(linear_cross_entropy_scratch_bytes(DeviceKind::cuda, M)));
  const Choice choice = differentiate ? choose_kernel<true>(op, V) : choose_kernel<false>(op, V);
  for (std::int64_t begin = 0; begin < M; begin += chunk) {
    const std::int64_t end = std::min(M, begin + chunk);
    const Tensor logits = p.logits.rows(0, end - begin), hidden = p.hidden.rows(begin, end);
    ssa::matmul(stream, {.out = logits, .a = hidden, .b = p.weight, .transpose_b = true});
    const auto rows = static_cast<unsigned>(end - begin);
    launch(stream, op, choice.kernel, {.grid = rows * choice.blocks, .block = choice.threads, .cluster = choice.blocks},
           losses + begin, bf16(logits), p.targets.as<std::int32_t>() + begin, V, p.gradient_scale);
    if (!differentiate) continue;
    ssa::matmul(stream, {.out = p.d_hidden.rows(begin, end), .a = logits, .b = p.weight});
    ssa::matmul(
        stream,
        {.out = p.d_weight, .a = logits, .b = hidden, .transpose_a = true, .accumulate = p.accumulate || begin > 0});
  }
  add_sum(stream, op, p.loss_sum.as<double>(), losses, M);
}

}  // namespace ssa::cuda
