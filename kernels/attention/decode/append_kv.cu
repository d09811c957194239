// A thread takes one column (head, dimension) of one sequence: the only cache elements it reads back are of its column.
#include "append_kv.h"
#include "kernels/common/device/launch.cuh"

namespace ssa::cuda {
namespace {

constexpr int kThreads = 128;

struct AppendArgs {
  __nv_bfloat16 *cache, *mean;  ///< mean: null if absent
  const __nv_bfloat16* x;
  const std::int32_t* positions;
  std::int64_t C, N, block_size;
  int T, width;
};

/// CTA (part of the columns, sequence, k or v).
__global__ void __launch_bounds__(kThreads) append_kv_kernel(const AppendArgs k, const AppendArgs v) {
  wait_for_previous_kernel();
  const AppendArgs& a = blockIdx.z == 0 ? k : v;
  const int column = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (column >= a.width) return;
  const std::int64_t b = blockIdx.y;
  __nv_bfloat16* cache = a.cache + b * a.C * a.width + column;
  for (int t = 0; t < a.T; ++t) {
    const std::int64_t position = a.positions[b * a.T + t], block = position / a.block_size;
    cache[position * a.width] = a.x[(b * a.T + t) * a.width + column];
    if (!a.mean || (position + 1) % a.block_size != 0) continue;
    float sum = 0;
    for (std::int64_t u = block * a.block_size; u <= position; ++u) sum += __bfloat162float(cache[u * a.width]);
    a.mean[(b * a.N + block) * a.width + column] = __float2bfloat16_rn(sum / static_cast<float>(a.block_size));
  }
}

}  // namespace

void append_kv(Stream& stream, const AppendKv& p) {
  const std::int64_t width = p.k.dim(2) * p.k.dim(3), C = p.k_cache.dim(1);
  const auto args = [&](const Tensor& cache, const Tensor& mean, const Tensor& x) {
    return AppendArgs{.cache = bf16(cache),
                      .mean = bf16(mean),
                      .x = bf16(x),
                      .positions = p.positions.as<std::int32_t>(),
                      .C = C,
                      .N = (C + p.block_size - 1) / p.block_size,
                      .block_size = p.block_size,
                      .T = static_cast<int>(p.k.dim(1)),
                      .width = static_cast<int>(width)};
  };
  launch(
      stream, "append_kv", append_kv_kernel,
      {.grid = dim3(ctas_for(width, kThreads), static_cast<unsigned>(p.k.dim(0)), 2), .block = kThreads, .waits = true},
      args(p.k_cache, p.k_mean, p.k), args(p.v_cache, p.v_mean, p.v));
}

}  // namespace ssa::cuda
