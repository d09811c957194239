// A CTA takes kColumns rows of b, each a column of the result, with all rows of a; its warps take an eighth of K each. In
// the products (m16n8k16) rows of b are the rows of A, and rows of a the columns of B. Lane t of a quad loads 16
// adjacent bytes of a row; they are the operands of two products, in which K is permuted the same way for a and b.
#include <algorithm>

#include "kernels/common/device/launch.cuh"
#include "kernels/common/ptx/mma.cuh"
#include "kernels/matmul/narrow_matmul.h"

namespace ssa::cuda {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * kWarpSize;
constexpr int kColumns = 16;  ///< per CTA
constexpr int kVector = 8;    ///< elements in 16 bytes
constexpr int kQuad = 4;      ///< vectors of a row that a warp loads at a time: K elements of a step are 32
constexpr int kUnroll = 8;    ///< steps whose part of b is in flight together

__device__ __forceinline__ void store(float* to, float value) { *to = value; }
__device__ __forceinline__ void store(__nv_bfloat16* to, float value) { *to = __float2bfloat16_rn(value); }

/// kTiles: rows of a divided by 8. `vectors`: of a row.
template <int kTiles, class Out>
__global__ void __launch_bounds__(kThreads, 2)
    narrow_matmul_kernel(Out* out, const uint4* a, const uint4* b, int rows, std::int64_t N, int vectors) {
  __shared__ float partial[kWarps][kTiles * 8][kColumns + 1];
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize, lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int g = lane / kQuad, t = lane % kQuad;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kColumns;
  const uint4 *upper = b + min(first + g, N - 1) * vectors + t, *lower = b + min(first + g + 8, N - 1) * vectors + t;
  const int steps = (vectors + kQuad - 1) / kQuad, share = (steps + kWarps - 1) / kWarps;
  const int begin = warp * share, end = min(steps, begin + share);

  uint4 w[kUnroll][2];
  const auto load_b = [&](int from) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int i = (from + u) * kQuad;
      const bool valid = from + u < end && i + t < vectors;
      w[u][0] = valid ? __ldcs(upper + i) : uint4{};
      w[u][1] = valid ? __ldcs(lower + i) : uint4{};
    }
  };
  load_b(begin);  // weights, which no kernel of a recording writes
  wait_for_previous_kernel();

  float sums[kTiles][4] = {};
  for (int step = begin; step < end; step += kUnroll) {
    if (step > begin) load_b(step);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const std::uint32_t left[] = {w[u][0].x, w[u][1].x, w[u][0].y, w[u][1].y};
      const std::uint32_t right[] = {w[u][0].z, w[u][1].z, w[u][0].w, w[u][1].w};
      const int i = (step + u) * kQuad + t;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const int row = tile * 8 + g;
        const bool valid = row < rows && step + u < end && i < vectors;
        const uint4 x = valid ? a[static_cast<std::int64_t>(row) * vectors + i] : uint4{};
        mma(sums[tile], left, x.x, x.y);
        mma(sums[tile], right, x.z, x.w);
      }
    }
  }
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
    for (int i = 0; i < 4; ++i) partial[warp][tile * 8 + 2 * t + i % 2][g + i / 2 * 8] = sums[tile][i];
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < rows * kColumns; i += kThreads) {
    const int row = i / kColumns, column = i % kColumns;
    float sum = 0;
#pragma unroll
    for (int part = 0; part < kWarps; ++part) sum += partial[part][row][column];
    if (first + column < N) store(out + row * N + first + column, sum);
  }
}

template <class Out>
void run(Stream& stream, const Matmul& p, Out* out) {
  constexpr std::int64_t kMostRows = 16;  ///< of a launch; more would not find a in L1
  const std::int64_t M = p.a.dim(0), K = p.a.dim(1), N = p.b.dim(0), vectors = K / kVector;
  for (std::int64_t row = 0; row < M; row += kMostRows) {
    const std::int64_t rows = std::min(kMostRows, M - row);
    launch(stream, "matmul", rows <= 8 ? narrow_matmul_kernel<1, Out> : narrow_matmul_kernel<2, Out>,
           {.grid = ctas_for(N, kColumns), .block = kThreads, .waits = true}, out + row * N,
           reinterpret_cast<const uint4*>(bf16(p.a)) + row * vectors, reinterpret_cast<const uint4*>(bf16(p.b)),
           static_cast<int>(rows), N, static_cast<int>(vectors));
  }
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
