#include "optimizer.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "kernels/common/cpu/cpu.h"
#include "stochastic_rounding.h"

namespace ssa::cpu {
namespace {

template <class Real>
double squared_sum(const Tensor& tensor) {
  constexpr std::int64_t kChunk = 1 << 14;  // fixed, so that the sum does not depend on the number of threads
  const std::int64_t n = tensor.count(), chunks = (n + kChunk - 1) / kChunk;
  const Real* x = tensor.as<Real>();
  std::vector<double> sums(static_cast<std::size_t>(chunks));
#pragma omp parallel for
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
    const std::int64_t end = std::min((chunk + 1) * kChunk, n);
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t i = chunk * kChunk; i < end; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    sums[static_cast<std::size_t>(chunk)] = sum;
  }
  double total = 0;
  for (double sum : sums) total += sum;
  return total;
}

/// An element in an arithmetic type.
float widen(bfloat16 x) { return static_cast<float>(x); }
float widen(float x) { return x; }
double widen(double x) { return x; }

/// store(i, mean, square) keeps the new moments of element i.
template <class Real, class Moment, class Store>
void update(const AdamW& p, Store&& store) {
  const auto step = static_cast<double>(p.step);
  const Real beta1 = static_cast<Real>(p.beta1), one_minus_beta1 = static_cast<Real>(1 - p.beta1);
  const Real beta2 = static_cast<Real>(p.beta2), one_minus_beta2 = static_cast<Real>(1 - p.beta2);
  const Real m_scale = static_cast<Real>(1 / (1 - std::pow(p.beta1, step)));
  const Real v_scale = static_cast<Real>(1 / (1 - std::pow(p.beta2, step)));
  const Real learning_rate = static_cast<Real>(p.learning_rate), weight_decay = static_cast<Real>(p.weight_decay);
  const Real epsilon = static_cast<Real>(p.epsilon), gradient_scale = static_cast<Real>(p.gradient_scale);
  Real* master = p.master.as<Real>();
  const Moment *m = p.m.as<Moment>(), *v = p.v.as<Moment>();
  const Real* gradient = p.gradient.as<Real>();
  const std::int64_t n = p.master.count();
#pragma omp parallel for simd
  for (std::int64_t i = 0; i < n; ++i) {
    const Real g = gradient_scale * gradient[i];
    const Real mean = beta1 * widen(m[i]) + one_minus_beta1 * g;
    const Real square = beta2 * widen(v[i]) + one_minus_beta2 * g * g;
    master[i] -= learning_rate * (m_scale * mean / (std::sqrt(v_scale * square) + epsilon) + weight_decay * master[i]);
    store(i, mean, square);
  }
}

template <class Real>
void update(const AdamW& p) {
  Real *m = p.m.as<Real>(), *v = p.v.as<Real>();
  update<Real, Real>(p, [=](std::int64_t i, Real mean, Real square) {
    m[i] = mean;
    v[i] = square;
  });
}

/// Moments in bf16 are rounded at random.
void update_with_bf16_moments(const AdamW& p) {
  bfloat16 *m = p.m.as<bfloat16>(), *v = p.v.as<bfloat16>();
  update<float, bfloat16>(p, [=, &p](std::int64_t i, float mean, float square) {
    const std::uint32_t random =
        moment_rounding_bits(p.seed, static_cast<std::uint64_t>(p.step), static_cast<std::uint64_t>(p.first_index + i));
    m[i].bits = round_at_random(std::bit_cast<std::uint32_t>(mean), random);
    v[i].bits = round_at_random(std::bit_cast<std::uint32_t>(square), random >> 16);
  });
}

template <class Out, class In>
Out round_to(In x) {
  if constexpr (sizeof(Out) == sizeof(bfloat16))
    return Out(static_cast<float>(widen(x)));
  else
    return static_cast<Out>(widen(x));
}

template <class Out, class In>
void convert(const Tensor& out_tensor, const Tensor& x_tensor) {
  const std::int64_t n = x_tensor.count();
  const In* x = x_tensor.as<In>();
  Out* out = out_tensor.as<Out>();
#pragma omp parallel for simd
  for (std::int64_t i = 0; i < n; ++i) out[i] = round_to<Out>(x[i]);
}

template <class Out, class In>
void add(const Tensor& out_tensor, const Tensor& x_tensor) {
  const std::int64_t n = x_tensor.count();
  const In* x = x_tensor.as<In>();
  Out* out = out_tensor.as<Out>();
#pragma omp parallel for simd
  for (std::int64_t i = 0; i < n; ++i) out[i] += static_cast<Out>(widen(x[i]));
}

/// Calls f.operator()<T>() with the C++ type of a floating-point dtype.
template <class F>
void visit(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32: return f.template operator()<float>();
    case DType::f64: return f.template operator()<double>();
    case DType::bf16: return f.template operator()<bfloat16>();
    default: fail("cast: tensor of ", name_of(dtype), ", expected f32 or bf16");
  }
}

}  // namespace

void squared_norm(Stream&, const SquaredNorm& p) {
  dispatch_real(p.x, [&]<class Real>() { *p.out.as<double>() += squared_sum<Real>(p.x); });
}

void adamw(Stream& stream, const AdamW& p) {
  if (p.m.dtype() == DType::bf16)
    update_with_bf16_moments(p);
  else
    dispatch_real(p.master, [&]<class Real>() { update<Real>(p); });
  if (p.weight) cpu::cast(stream, {.out = p.weight, .x = p.master});
}

void cast(Stream&, const Cast& p) {
  visit(p.x.dtype(), [&]<class In>() { visit(p.out.dtype(), [&]<class Out>() { convert<Out, In>(p.out, p.x); }); });
}

void accumulate(Stream&, const Accumulate& p) {
  dispatch_real(p.out, [&]<class Out>() { visit(p.x.dtype(), [&]<class In>() { add<Out, In>(p.out, p.x); }); });
}

}  // namespace ssa::cpu
