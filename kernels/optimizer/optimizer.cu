// Streaming over flat ranges. A range that is aligned to 16 bytes takes a kernel with vector accesses, any other range
// one with scalar accesses.
#include <algorithm>
#include <cmath>

#include "kernels/common/device/launch.cuh"
#include "kernels/common/device/reduce.cuh"
#include "kernels/common/device/sum.cuh"
#include "kernels/common/device/vector.cuh"
#include "optimizer.h"
#include "stochastic_rounding.h"

namespace ssa::cuda {
namespace {

constexpr int kThreads = 256;

bool aligned(const Tensor& tensor) { return reinterpret_cast<std::uintptr_t>(tensor.data()) % 16 == 0; }

/// partials[b] = sum of x^2 over the elements of CTA b. The numbers of CTAs and threads are fixed, and so is the order
/// of the sum. All CTAs have the same work, and eight per SM run in one wave: a second wave would leave most SMs idle.
template <int kVec>
__global__ void __launch_bounds__(kThreads, 8) squared_norm_kernel(double* partials, const float* x, std::int64_t n) {
  __shared__ double shared[kThreads / kWarpSize];
  constexpr std::int64_t kStride = kSquaredNormPartials * kThreads * kVec;
  constexpr int kBatch = 4;  // vectors in flight: a loop of one load would wait for each
  double sum = 0;
  const auto add = [&](const Floats<kVec>& v) {
#pragma unroll
    for (int j = 0; j < kVec; ++j) sum += static_cast<double>(v[j]) * static_cast<double>(v[j]);
  };
  std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kVec;
#pragma unroll 1
  for (; i + (kBatch - 1) * kStride + kVec <= n; i += kBatch * kStride) {
    Floats<kVec> v[kBatch];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) v[b] = load_constant<kVec>(x + i + b * kStride);
#pragma unroll
    for (int b = 0; b < kBatch; ++b) add(v[b]);
  }
#pragma unroll 1
  for (; i + kVec <= n; i += kStride) add(load_constant<kVec>(x + i));
#pragma unroll 1
  for (; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);  // the tail, by one thread
  sum = block_sum<kThreads>(sum, shared);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

struct AdamWFactors {
  float gradient_scale, beta1, beta2, one_minus_beta1, one_minus_beta2, bias1, bias2, epsilon, learning_rate,
      weight_decay;
  std::uint64_t seed, step, first_index;  ///< of the rounding of moments in bf16
};

/// Stores a moment of element `index` (0 is first_index); `shift` picks its bits of the random number.
template <int kCount>
__device__ __forceinline__ void store_moment(float* to, const Floats<kCount>& x, const AdamWFactors&, std::int64_t,
                                             int) {
  store<kCount>(to, x);
}
template <int kCount>
__device__ __forceinline__ void store_moment(__nv_bfloat16* to, const Floats<kCount>& x, const AdamWFactors& f,
                                             std::int64_t index, int shift) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const std::uint32_t random =
        moment_rounding_bits(f.seed, f.step, f.first_index + static_cast<std::uint64_t>(index + i));
    to[i] = __ushort_as_bfloat16(round_at_random(__float_as_uint(x[i]), random >> shift));
  }
}

/// `index`: of the first of kCount elements.
template <int kCount, class Moment>
__device__ __forceinline__ void adamw_update(float* master, Moment* m, Moment* v, __nv_bfloat16* weight,
                                             const float* gradient, const AdamWFactors& f, std::int64_t index) {
  Floats<kCount> w = load<kCount>(master), mean = load<kCount>(m), square = load<kCount>(v);
  const Floats<kCount> g = load<kCount>(gradient);
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const float scaled = f.gradient_scale * g[i];
    mean[i] = f.beta1 * mean[i] + f.one_minus_beta1 * scaled;
    square[i] = f.beta2 * square[i] + f.one_minus_beta2 * scaled * scaled;
    w[i] -= f.learning_rate * (mean[i] * f.bias1 / (sqrtf(square[i] * f.bias2) + f.epsilon) + f.weight_decay * w[i]);
  }
  store<kCount>(master, w);
  store_moment<kCount>(m, mean, f, index, 0);
  store_moment<kCount>(v, square, f, index, 16);
  if (weight) store<kCount>(weight, w);
}

/// At most four values per thread, so that each access of a warp covers whole 32-byte sectors: with eight, every f32
/// sector was read and written in two halves. Many threads keep enough accesses in flight.
template <int kVec, class Moment>
__global__ void __launch_bounds__(kThreads, sizeof(Moment) == 2 ? 3 : 6)
    adamw_kernel(float* master, Moment* m, Moment* v, __nv_bfloat16* weight, const float* gradient, std::int64_t n,
                 AdamWFactors f) {
  std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kVec;
  if (i + kVec <= n)
    return adamw_update<kVec>(master + i, m + i, v + i, weight ? weight + i : nullptr, gradient + i, f, i);
  for (; i < n; ++i) adamw_update<1>(master + i, m + i, v + i, weight ? weight + i : nullptr, gradient + i, f, i);
}

template <class Moment>
void run_adamw(Stream& stream, const AdamW& p, Moment* m, Moment* v, int vec, const AdamWFactors& factors) {
  const std::int64_t n = p.master.count();
  const auto kernel = vec == 1 ? adamw_kernel<1, Moment> : adamw_kernel<16 / sizeof(Moment), Moment>;
  launch(stream, "adamw", kernel, {.grid = ctas_for(n, kThreads * vec), .block = kThreads}, p.master.as<float>(), m, v,
         bf16(p.weight), p.gradient.as<float>(), n, factors);
}

template <int kVec, class To, class From>
__global__ void __launch_bounds__(kThreads) cast_kernel(To* out, const From* x, std::int64_t n) {
  std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kVec;
  if (i + kVec <= n) return store<kVec>(out + i, load<kVec>(x + i));
  for (; i < n; ++i) store<1>(out + i, load<1>(x + i));
}

template <int kCount, class From>
__device__ __forceinline__ void add_to(float* out, const From* x) {
  Floats<kCount> sum = load<kCount>(out);
  const Floats<kCount> more = load<kCount>(x);
#pragma unroll
  for (int i = 0; i < kCount; ++i) sum[i] += more[i];
  store<kCount>(out, sum);
}

template <int kVec, class From>
__global__ void __launch_bounds__(kThreads) accumulate_kernel(float* out, const From* x, std::int64_t n) {
  std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kVec;
  if (i + kVec <= n) return add_to<kVec>(out + i, x + i);
  for (; i < n; ++i) add_to<1>(out + i, x + i);
}

template <class From>
void run_accumulate(Stream& stream, float* out, const From* x, std::int64_t n, bool wide) {
  constexpr int kWide = 16 / sizeof(From);
  const int vec = wide ? kWide : 1;
  const auto kernel = wide ? accumulate_kernel<kWide, From> : accumulate_kernel<1, From>;
  launch(stream, "accumulate", kernel, {.grid = ctas_for(n, kThreads * vec), .block = kThreads}, out, x, n);
}

template <class To, class From>
void run_cast(Stream& stream, To* out, const From* x, std::int64_t n, bool wide) {
  const int vec = wide ? 8 : 1;
  const auto kernel = wide ? cast_kernel<8, To, From> : cast_kernel<1, To, From>;
  launch(stream, "cast", kernel, {.grid = ctas_for(n, kThreads * vec), .block = kThreads}, out, x, n);
}

}  // namespace

void squared_norm(Stream& stream, const SquaredNorm& p) {
  constexpr auto op = "squared_norm";
  auto* partials = static_cast<double*>(stream.scratch(scratch_bytes(p)));
  const auto kernel = aligned(p.x) ? squared_norm_kernel<4> : squared_norm_kernel<1>;
  launch(stream, op, kernel, {.grid = kSquaredNormPartials, .block = kThreads}, partials, p.x.as<float>(), p.x.count());
  add_sum(stream, op, p.out.as<double>(), partials, kSquaredNormPartials);
}

void adamw(Stream& stream, const AdamW& p) {
  const double step = static_cast<double>(p.step);
  const AdamWFactors factors{.gradient_scale = p.gradient_scale,
                             .beta1 = static_cast<float>(p.beta1),
                             .beta2 = static_cast<float>(p.beta2),
                             .one_minus_beta1 = static_cast<float>(1 - p.beta1),
                             .one_minus_beta2 = static_cast<float>(1 - p.beta2),
                             .bias1 = static_cast<float>(1 / (1 - std::pow(p.beta1, step))),
                             .bias2 = static_cast<float>(1 / (1 - std::pow(p.beta2, step))),
                             .epsilon = static_cast<float>(p.epsilon),
                             .learning_rate = static_cast<float>(p.learning_rate),
                             .weight_decay = static_cast<float>(p.weight_decay),
                             .seed = p.seed,
                             .step = static_cast<std::uint64_t>(p.step),
                             .first_index = static_cast<std::uint64_t>(p.first_index)};
  const bool wide = aligned(p.master) && aligned(p.m) && aligned(p.v) && aligned(p.weight) && aligned(p.gradient);
  if (p.m.dtype() == DType::bf16) return run_adamw(stream, p, bf16(p.m), bf16(p.v), wide ? 8 : 1, factors);
  run_adamw(stream, p, p.m.as<float>(), p.v.as<float>(), wide ? 4 : 1, factors);
}

void cast(Stream& stream, const Cast& p) {
  const std::int64_t n = p.x.count();
  const bool wide = aligned(p.x) && aligned(p.out);
  const bool from_f32 = p.x.dtype() == DType::f32, to_f32 = p.out.dtype() == DType::f32;
  if (from_f32 && to_f32) return stream.copy(p.out.data(), p.x.data(), p.x.bytes());
  if (from_f32) return run_cast(stream, bf16(p.out), p.x.as<float>(), n, wide);
  if (to_f32) return run_cast(stream, p.out.as<float>(), bf16(p.x), n, wide);
  stream.copy(p.out.data(), p.x.data(), p.x.bytes());
}

void accumulate(Stream& stream, const Accumulate& p) {
  const std::int64_t n = p.out.count();
  const bool wide = aligned(p.out) && aligned(p.x);
  if (p.x.dtype() == DType::f32) return run_accumulate(stream, p.out.as<float>(), p.x.as<float>(), n, wide);
  run_accumulate(stream, p.out.as<float>(), static_cast<const __nv_bfloat16*>(bf16(p.x)), n, wide);
}

}  // namespace ssa::cuda
