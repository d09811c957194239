// Per chunk of tokens: logits by cuBLASLt, loss and d_logits in place by one kernel, then the two gradient products.
// The kernel reads a row twice, once for the log-sum-exp and once to overwrite it; the rows in flight fit in L2
// together, so that memory sees one read and one write.
#include <algorithm>

#include "kernels/common/launch.cuh"
#include "kernels/common/math.cuh"
#include "kernels/common/reduce.cuh"
#include "kernels/common/sum.cuh"
#include "kernels/common/vector.cuh"
#include "ssa/ops/linear_cross_entropy.h"
#include "ssa/ops/matmul.h"

namespace ssa::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr std::int32_t kIgnored = -100;

/// One block a row. With `differentiate`, logits[m] becomes gradient_scale * (softmax(logits[m]) - onehot(targets[m])).
template <int kVec, bool kDifferentiate>
__global__ void __launch_bounds__(kThreads)
    cross_entropy_kernel(float* losses, __nv_bfloat16* logits, const std::int32_t* targets, std::int64_t V,
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

  // Running maximum of this thread's logits, and sum of exponentials below it. The difference is taken before it is
  // scaled to powers of two: a row with one likely logit then has a loss of 0, not of a rounding error.
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
  if (threadIdx.x == 0) losses[blockIdx.x] = (row_top - target_logit) + log2_sum / kLog2e;
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

}  // namespace

void linear_cross_entropy(Stream& stream, const LinearCrossEntropy& p) {
  constexpr auto op = "linear_cross_entropy";
  const std::int64_t M = p.hidden.dim(0), V = p.weight.dim(0), chunk = p.logits.dim(0);
  const bool differentiate = static_cast<bool>(p.d_hidden);
  float* losses = p.losses
                      ? p.losses.as<float>()
                      : static_cast<float*>(stream.scratch(linear_cross_entropy_scratch_bytes(DeviceKind::cuda, M)));
  const auto kernel = V % 8 == 0 ? (differentiate ? cross_entropy_kernel<8, true> : cross_entropy_kernel<8, false>)
                                 : (differentiate ? cross_entropy_kernel<1, true> : cross_entropy_kernel<1, false>);
  for (std::int64_t begin = 0; begin < M; begin += chunk) {
    const std::int64_t end = std::min(M, begin + chunk);
    const Tensor logits = p.logits.rows(0, end - begin), hidden = p.hidden.rows(begin, end);
    ssa::matmul(stream, {.out = logits, .a = hidden, .b = p.weight, .transpose_b = true});
    launch(stream, op, kernel, {.grid = static_cast<unsigned>(end - begin), .block = kThreads}, losses + begin,
           bf16(logits), p.targets.as<std::int32_t>() + begin, V, p.gradient_scale);
    if (!differentiate) continue;
    ssa::matmul(stream, {.out = p.d_hidden.rows(begin, end), .a = logits, .b = p.weight});
    ssa::matmul(
        stream,
        {.out = p.d_weight, .a = logits, .b = hidden, .transpose_a = true, .accumulate = p.accumulate || begin > 0});
  }
  add_sum(stream, op, p.loss_sum.as<double>(), losses, M);
}

}  // namespace ssa::cuda
