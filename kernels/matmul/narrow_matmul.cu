// A warp takes kColumns adjacent rows of b, each a column of the result, with all rows of a: every element of b is read
// once, and those of a come from L1. Lanes take vectors of 8 elements in turn.
#include <utility>

#include "kernels/common/device/launch.cuh"
#include "kernels/common/device/reduce.cuh"
#include "kernels/matmul/narrow_matmul.h"

namespace ssa::cuda {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * kWarpSize;
constexpr int kColumns = 2;  ///< per warp
constexpr int kVector = 8;   ///< elements in 16 bytes
constexpr int kUnroll = 4;   ///< vectors of each column that a lane loads before it uses them

/// The two bf16 values of a word.
__device__ __forceinline__ float2 values_of(unsigned word) {
  return {__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u)};
}

__device__ __forceinline__ float dot(const uint4& x, const uint4& w, float sum) {
  const unsigned xs[] = {x.x, x.y, x.z, x.w}, ws[] = {w.x, w.y, w.z, w.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 a = values_of(xs[i]), b = values_of(ws[i]);
    sum = fmaf(a.x, b.x, sum);
    sum = fmaf(a.y, b.y, sum);
  }
  return sum;
}

__device__ __forceinline__ void store(float* to, float value) { *to = value; }
__device__ __forceinline__ void store(__nv_bfloat16* to, float value) { *to = __float2bfloat16_rn(value); }

template <int kRows, class Out>
__global__ void __launch_bounds__(kThreads)
    narrow_matmul_kernel(Out* out, const uint4* a, const uint4* b, std::int64_t N, int vectors) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const std::int64_t first = (static_cast<std::int64_t>(blockIdx.x) * kWarps + warp) * kColumns;
  if (first >= N) return;
  const uint4* columns[kColumns];
#pragma unroll
  for (int c = 0; c < kColumns; ++c) columns[c] = b + min(first + c, N - 1) * vectors;

  float sums[kRows][kColumns] = {};
  const auto add = [&](int i, const uint4(&w)[kColumns]) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const uint4 x = __ldg(a + static_cast<std::int64_t>(r) * vectors + i);
#pragma unroll
      for (int c = 0; c < kColumns; ++c) sums[r][c] = dot(x, w[c], sums[r][c]);
    }
  };
  int i = lane;
  for (; i + (kUnroll - 1) * kWarpSize < vectors; i += kUnroll * kWarpSize) {
    uint4 w[kUnroll][kColumns];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
#pragma unroll
      for (int c = 0; c < kColumns; ++c) w[u][c] = __ldcs(columns[c] + i + u * kWarpSize);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) add(i + u * kWarpSize, w[u]);
  }
  for (; i < vectors; i += kWarpSize) {
    uint4 w[kColumns];
#pragma unroll
    for (int c = 0; c < kColumns; ++c) w[c] = __ldcs(columns[c] + i);
    add(i, w);
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r)
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const float sum = warp_sum(sums[r][c]);
      if (lane == 0 && first + c < N) store(out + r * N + first + c, sum);
    }
}

template <class Out>
void run(Stream& stream, const Matmul& p, Out* out) {
  const std::int64_t M = p.a.dim(0), K = p.a.dim(1), N = p.b.dim(0);
  const auto rows = [&]<int kRows>() {
    launch(stream, "matmul", narrow_matmul_kernel<kRows, Out>,
           {.grid = ctas_for(N, kWarps * kColumns), .block = kThreads}, out, reinterpret_cast<const uint4*>(bf16(p.a)),
           reinterpret_cast<const uint4*>(bf16(p.b)), N, static_cast<int>(K / kVector));
  };
  [&]<int... kRows>(std::integer_sequence<int, kRows...>) {
    static_cast<void>(((M == kRows + 1 && (rows.template operator()<kRows + 1>(), true)) || ...));
  }
  (std::make_integer_sequence<int, static_cast<int>(kNarrowRows)>());
}

bool aligned(const Tensor& tensor) { return reinterpret_cast<std::uintptr_t>(tensor.data()) % sizeof(uint4) == 0; }

}  // namespace

bool is_narrow(const Matmul& p) {
  const std::int64_t M = p.a.dim(0), K = p.a.dim(1);
  return p.transpose_b && !p.transpose_a && !p.accumulate && M <= kNarrowRows && K % kVector == 0 && K < (1 << 30) &&
         p.a.dtype() == DType::bf16 && aligned(p.a) && aligned(p.b);
}

void narrow_matmul(Stream& stream, const Matmul& p) {
  if (p.out.dtype() == DType::f32)
    run(stream, p, p.out.as<float>());
  else
    run(stream, p, bf16(p.out));
}

}  // namespace ssa::cuda
