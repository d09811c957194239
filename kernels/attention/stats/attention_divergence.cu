// A warp takes one (position, head) and writes three values; a second kernel adds the values of each head in f64, in a
// fixed order. Written to be simple: it runs in evaluations only.
#include <cstdint>

#include "attention_divergence.h"
#include "kernels/common/device/launch.cuh"
#include "kernels/common/device/reduce.cuh"

namespace ssa::cuda {
namespace {

constexpr int kThreads = 256;

struct DivergenceArgs {
  float* values;  ///< [3, B * T * HQ]: distance, norm, sink
  const __nv_bfloat16 *full, *sparse, *q, *k;
  const float* lse;
  const int* begin;   ///< [B, T]: DocumentBounds::begin; null without documents
  std::int64_t rows;  ///< B * T * HQ
  int T, HQ, HK, D, sink_tokens;
  float scale;
};

__global__ void __launch_bounds__(kThreads) attention_divergence_kernel(const DivergenceArgs a) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * (kThreads / kWarpSize) + threadIdx.x / kWarpSize;
  if (row >= a.rows) return;  // the whole warp
  const int lane = static_cast<int>(threadIdx.x % kWarpSize);
  const std::int64_t position = row / a.HQ, batch = position / a.T;
  const int head = static_cast<int>(row % a.HQ), t = static_cast<int>(position % a.T), kv_head = head / (a.HQ / a.HK);
  float distance = 0, norm = 0, sink = 0;
  for (int d = lane; d < a.D; d += kWarpSize) {
    const float full = __bfloat162float(a.full[row * a.D + d]);
    const float difference = full - __bfloat162float(a.sparse[row * a.D + d]);
    distance += difference * difference;
    norm += full * full;
  }
  const float lse = a.lse[row];
  const int begin = a.begin ? __ldg(a.begin + position) : 0;
  for (int u = begin; u <= min(t, begin + a.sink_tokens - 1); ++u) {
    const __nv_bfloat16* key = a.k + ((batch * a.T + u) * a.HK + kv_head) * a.D;
    float score = 0;
    for (int d = lane; d < a.D; d += kWarpSize)
      score += __bfloat162float(a.q[row * a.D + d]) * __bfloat162float(key[d]);
    sink += expf(warp_sum(score) * a.scale - lse);
  }
  distance = warp_sum(distance);
  norm = warp_sum(norm);
  if (lane == 0) {
    a.values[row] = distance;
    a.values[a.rows + row] = norm;
    a.values[2 * a.rows + row] = sink;
  }
}

struct DivergenceSums {
  double* of[3];  ///< distance, norm, sink
};

/// CTA (head, statistic): adds the values of all positions.
__global__ void __launch_bounds__(kThreads)
    sum_divergence_kernel(const DivergenceSums sums, const float* values, std::int64_t rows, int HQ) {
  __shared__ double shared[kThreads / kWarpSize];
  const float* from = values + blockIdx.y * rows + blockIdx.x;
  double sum = 0;
  for (std::int64_t i = static_cast<std::int64_t>(threadIdx.x) * HQ; i < rows - static_cast<std::int64_t>(blockIdx.x);
       i += static_cast<std::int64_t>(kThreads) * HQ)
    sum += static_cast<double>(from[i]);
  sum = block_sum<kThreads>(sum, shared);
  if (threadIdx.x == 0) sums.of[blockIdx.y][blockIdx.x] += sum;
}

}  // namespace

void attention_divergence(Stream& stream, const AttentionDivergence& p) {
  constexpr auto op = "attention_divergence";
  const std::int64_t B = p.q.dim(0), T = p.q.dim(1), HQ = p.q.dim(2), rows = B * T * HQ;
  auto* values = static_cast<float*>(stream.scratch(scratch_bytes(p)));
  const DivergenceArgs args = {.values = values,
                               .full = bf16(p.full),
                               .sparse = bf16(p.sparse),
                               .q = bf16(p.q),
                               .k = bf16(p.k),
                               .lse = p.lse.as<float>(),
                               .begin = p.documents.begin.as_or_null<std::int32_t>(),
                               .rows = rows,
                               .T = static_cast<int>(T),
                               .HQ = static_cast<int>(HQ),
                               .HK = static_cast<int>(p.k.dim(2)),
                               .D = static_cast<int>(p.q.dim(3)),
                               .sink_tokens = static_cast<int>(p.sink_tokens),
                               .scale = p.scale};
  launch(stream, op, attention_divergence_kernel,
         {.grid = dim3(ctas_for(rows, kThreads / kWarpSize)), .block = kThreads}, args);
  const DivergenceSums sums = {{p.distance.as<double>(), p.norm.as<double>(), p.sink.as<double>()}};
  launch(stream, op, sum_divergence_kernel, {.grid = dim3(static_cast<unsigned>(HQ), 3), .block = kThreads}, sums,
         values, rows, static_cast<int>(HQ));
}

}  // namespace ssa::cuda
