// A CTA takes 16 rows of b with all rows of a; its warps take a part of K each. A row of b is a column of the result;
// with swiglu eight of the rows are of gate, and eight the same rows of up. In the products (m16n8k16) rows of b are
// the rows of A, and rows of a the columns of B. Lane t of a quad loads 16 adjacent bytes of a row; they are the
// operands of two products, in which K is permuted the same way for a and b.
// In recorded work a CTA has its first loads of b in flight before the kernel that computes a has ended. Then it copies
// the rows of a to shared memory, if they fit, and normalizes them there.
#include "kernels/matmul/narrow_matmul.h"

#include <algorithm>

#include "kernels/common/device/l2_prefetch.cuh"
#include "kernels/common/device/launch.cuh"
#include "kernels/common/device/math.cuh"
#include "kernels/common/device/vector.cuh"
#include "kernels/common/ptx/mma.cuh"
#include "kernels/fused_linear/fused_linear.h"

namespace ssa::cuda {
namespace {

constexpr int kRowsOfB = 16;            ///< per CTA
constexpr int kVector = 8;              ///< elements in 16 bytes
constexpr int kQuad = 4;                ///< vectors of a row that a warp loads at a time: K elements of a step are 32
constexpr int kUnroll = 8;              ///< steps whose part of b is in flight together
constexpr int kFewWarps = 8;            ///< of a CTA, where each then takes at most kUnroll steps; else kManyWarps
constexpr int kManyWarps = 16;          ///< one such CTA has as many loads in flight as two of kFewWarps
constexpr std::int64_t kMostRows = 16;  ///< rows of a per launch; more would not find a in L1
constexpr int kMostNormRows = 8;        ///< that a CTA normalizes
constexpr std::int64_t kMostNormBytes = 16 * 1024;
constexpr std::int64_t kMostStagedBytes = 80 * 1024;  ///< two CTAs run on an SM
constexpr std::int64_t kMostPrefetched = 4 << 20;     ///< bytes

struct NarrowArgs {
  const uint4 *a, *b;
  const __nv_bfloat16 *norm_weight, *residual;  ///< null: without norm, without residual
  std::int64_t N;                               ///< columns of out
  int rows, vectors;                            ///< of a; vectors of a row
  float eps, inverse_K;
  L2Prefetch prefetch;
};

__device__ __forceinline__ void store(float* to, float value) { *to = value; }
__device__ __forceinline__ void store(__nv_bfloat16* to, float value) { *to = __float2bfloat16_rn(value); }

/// Vectors between two rows in shared memory: two adjacent rows are in different banks.
__host__ __device__ constexpr int staged_stride(int vectors) { return vectors + kQuad; }

/// In dynamic shared memory, before the rows of a.
template <int kWarps, int kTiles>
struct alignas(sizeof(uint4)) NarrowShared {
  float partial[kWarps][kTiles * 8][kRowsOfB + 1];  ///< sums of a warp's part of K
  float squares[kMostNormRows][kWarps];             ///< sums of squares of a warp's part of the rows
};

/// Copies the rows of a to shared memory, normalized if there is a norm. `first_weight`: vector threadIdx.x of the
/// norm's weight, if there is one.
template <int kThreads>
__device__ __forceinline__ void stage_rows(uint4* staged, float (&squares)[kMostNormRows][kThreads / kWarpSize],
                                           const NarrowArgs& p, const uint4& first_weight) {
  const int thread = static_cast<int>(threadIdx.x), stride = staged_stride(p.vectors);
  for (int row = 0; row < p.rows; ++row) {
    float sum = 0;
    for (int i = thread; i < p.vectors; i += kThreads) {
      const uint4 raw = p.a[static_cast<std::int64_t>(row) * p.vectors + i];
      staged[row * stride + i] = raw;
      if (!p.norm_weight) continue;
      const Floats<kVector> x = unpack_bf16(raw);
#pragma unroll
      for (int e = 0; e < kVector; ++e) sum += x[e] * x[e];
    }
    if (!p.norm_weight) continue;
    sum = warp_sum(sum);
    if (thread % kWarpSize == 0) squares[row][thread / kWarpSize] = sum;
  }
  __syncthreads();
  if (!p.norm_weight) return;
  for (int row = 0; row < p.rows; ++row) {
    float sum = squares[row][0];
#pragma unroll
    for (int warp = 1; warp < kThreads / kWarpSize; ++warp) sum += squares[row][warp];
    const float r = rsqrtf(sum * p.inverse_K + p.eps);
    for (int i = thread; i < p.vectors; i += kThreads) {
      const uint4 raw = i == thread ? first_weight : reinterpret_cast<const uint4*>(p.norm_weight)[i];
      const Floats<kVector> w = unpack_bf16(raw);
      Floats<kVector> x = unpack_bf16(staged[row * stride + i]);
#pragma unroll
      for (int e = 0; e < kVector; ++e) x[e] = x[e] * r * w[e];
      staged[row * stride + i] = pack_bf16(x);
    }
  }
  __syncthreads();
}

/// kTiles: rows of a divided by 8.
template <int kWarps, int kTiles, bool kStaged, bool kSwiglu, class Out>
__global__ void __launch_bounds__(kWarps* kWarpSize, kManyWarps / kWarps)
    narrow_matmul_kernel(Out* out, const __grid_constant__ NarrowArgs p) {
  constexpr int kThreads = kWarps * kWarpSize, kColumns = kSwiglu ? kRowsOfB / 2 : kRowsOfB;  ///< columns of out
  constexpr bool kRefills = kTiles == 1 && kStaged;  // a step's registers as soon as it is done: else too few are left
  static_assert(kMostRows * kRowsOfB <= kThreads);   // a result per thread
  extern __shared__ uint4 dynamic_shared[];
  auto& shared = *reinterpret_cast<NarrowShared<kWarps, kTiles>*>(dynamic_shared);
  uint4* staged = reinterpret_cast<uint4*>(&shared + 1);
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarpSize, lane = thread % kWarpSize;
  const int g = lane / kQuad, t = lane % kQuad;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kColumns, last = p.N - 1;
  const std::int64_t lower_row = kSwiglu ? p.N + min(first + g, last) : min(first + g + 8, last);
  const uint4 *upper = p.b + min(first + g, last) * p.vectors + t, *lower = p.b + lower_row * p.vectors + t;
  const int steps = (p.vectors + kQuad - 1) / kQuad, share = (steps + kWarps - 1) / kWarps;
  const int begin = warp * share, end = min(steps, begin + share);

  uint4 w[kUnroll][2];
  const auto load_b = [&](int u, int step) {
    const int i = step * kQuad;
    const bool valid = step < end && i + t < p.vectors;
    w[u][0] = valid ? __ldcs(upper + i) : uint4{};
    w[u][1] = valid ? __ldcs(lower + i) : uint4{};
  };
  // Weights, which no kernel of a recording writes.
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) load_b(u, begin + u);
  uint4 first_weight{};
  if (kStaged && p.norm_weight && thread < p.vectors)
    first_weight = reinterpret_cast<const uint4*>(p.norm_weight)[thread];
  if (thread == 0) p.prefetch.start(static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x));
  wait_for_previous_kernel();

  const int out_row = thread / kColumns, out_column = thread % kColumns;
  const std::int64_t place = out_row * p.N + first + out_column;
  const bool has_result = out_row < p.rows && first + out_column < p.N;
  const float residual = p.residual && has_result ? __bfloat162float(p.residual[place]) : 0.0f;
  if constexpr (kStaged) stage_rows<kThreads>(staged, shared.squares, p, first_weight);

  float sums[kTiles][4] = {};
  for (int step = begin; step < end; step += kUnroll) {
    if (!kRefills && step > begin)
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) load_b(u, step + u);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const std::uint32_t left[] = {w[u][0].x, w[u][1].x, w[u][0].y, w[u][1].y};
      const std::uint32_t right[] = {w[u][0].z, w[u][1].z, w[u][0].w, w[u][1].w};
      const int i = (step + u) * kQuad + t;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const int row = tile * 8 + g;
        const bool valid = row < p.rows && step + u < end && i < p.vectors;
        uint4 x{};
        if (valid)
          x = kStaged ? staged[row * staged_stride(p.vectors) + i]
                      : p.a[static_cast<std::int64_t>(row) * p.vectors + i];
        mma(sums[tile], left, x.x, x.y);
        mma(sums[tile], right, x.z, x.w);
      }
      if (kRefills) load_b(u, step + kUnroll + u);
    }
  }
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
    for (int i = 0; i < 4; ++i) shared.partial[warp][tile * 8 + 2 * t + i % 2][g + i / 2 * 8] = sums[tile][i];
  __syncthreads();
  if (!has_result) return;
  const auto sum_of = [&](int row_of_b) {
    float sum = 0;
#pragma unroll
    for (int part = 0; part < kWarps; ++part) sum += shared.partial[part][out_row][row_of_b];
    return sum;
  };
  float result = sum_of(out_column);
  if constexpr (kSwiglu) {
    const float gate = round_bf16(result), up = round_bf16(sum_of(out_column + 8));
    result = gate * sigmoid(gate) * up;
  }
  if (p.residual) result = residual + round_bf16(result);
  store(out + place, result);
}

template <int kWarps, bool kSwiglu, class Out>
void run(Stream& stream, const char* op, const FusedLinear& p, Out* out) {
  const std::int64_t M = p.x.dim(0), K = p.x.dim(1), N = p.out.dim(1), vectors = K / kVector;
  for (std::int64_t row = 0; row < M; row += kMostRows) {
    const std::int64_t rows = std::min(kMostRows, M - row);
    const std::int64_t staged = rows * staged_stride(static_cast<int>(vectors)) * static_cast<int>(sizeof(uint4));
    const bool stages = staged <= kMostStagedBytes;
    const auto kernel = !stages     ? narrow_matmul_kernel<kWarps, 2, false, kSwiglu, Out>
                        : rows <= 8 ? narrow_matmul_kernel<kWarps, 1, true, kSwiglu, Out>
                                    : narrow_matmul_kernel<kWarps, 2, true, kSwiglu, Out>;
    const NarrowArgs args{.a = reinterpret_cast<const uint4*>(bf16(p.x)) + row * vectors,
                          .b = reinterpret_cast<const uint4*>(bf16(p.w)),
                          .norm_weight = bf16(p.norm_weight),
                          .residual = p.residual ? bf16(p.residual) + row * N : nullptr,
                          .N = N,
                          .rows = static_cast<int>(rows),
                          .vectors = static_cast<int>(vectors),
                          .eps = p.eps,
                          .inverse_K = 1.0f / static_cast<float>(K),
                          .prefetch = L2Prefetch(row == 0 ? p.read_later : ReadLater(), kMostPrefetched)};
    launch(stream, op, kernel,
           {.grid = ctas_for(N, kSwiglu ? kRowsOfB / 2 : kRowsOfB),
            .block = kWarps * kWarpSize,
            .shared_bytes = (stages && rows <= 8 ? sizeof(NarrowShared<kWarps, 1>) : sizeof(NarrowShared<kWarps, 2>)) +
                            (stages ? static_cast<std::size_t>(staged) : 0),
            .waits = true},
           out + row * N, args);
  }
}

template <bool kSwiglu, class Out>
void run(Stream& stream, const char* op, const FusedLinear& p, Out* out) {
  if (p.x.dim(1) <= kFewWarps * kUnroll * kQuad * kVector)
    run<kFewWarps, kSwiglu>(stream, op, p, out);
  else
    run<kManyWarps, kSwiglu>(stream, op, p, out);
}

bool aligned(const Tensor& tensor) { return reinterpret_cast<std::uintptr_t>(tensor.data()) % sizeof(uint4) == 0; }

}  // namespace

bool is_narrow(const Tensor& a, const Tensor& b) {
  const std::int64_t M = a.dim(0), K = a.dim(1);
  return M <= kNarrowRows && K % kVector == 0 && 0 < K && K < (1 << 30) && a.dtype() == DType::bf16 && aligned(a) &&
         aligned(b);
}

bool norms_rows(const Tensor& x) {
  const std::int64_t M = x.dim(0), K = x.dim(1);
  return M <= kMostNormRows && M * K * static_cast<std::int64_t>(sizeof(bfloat16)) <= kMostNormBytes;
}

void narrow_matmul(Stream& stream, const char* op, const FusedLinear& p) {
  if (p.out.dtype() == DType::f32)
    run<false>(stream, op, p, p.out.as<float>());
  else if (p.swiglu)
    run<true>(stream, op, p, bf16(p.out));
  else
    run<false>(stream, op, p, bf16(p.out));
}

}  // namespace ssa::cuda
