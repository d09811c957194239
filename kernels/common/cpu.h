// What the CPU ops share. They are templates over Real: float is the backend, double serves the derivative tests.
#pragma once

#include <cstdint>

#include "ssa/runtime/tensor.h"

namespace ssa::cpu {

/// Calls f.operator()<float>() or <double>(), by the dtype of one of the op's activations.
template <class F>
void dispatch_real(const Tensor& activation, F&& f) {
  switch (activation.dtype()) {
    case DType::f32: return f.template operator()<float>();
    case DType::f64: return f.template operator()<double>();
    default: fail("CPU op: tensor of ", name_of(activation.dtype()), ", expected f32");
  }
}

/// Sum of a[i] * b[i].
template <class Real>
Real dot(const Real* a, const Real* b, std::int64_t n) {
  Real sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

/// y[i] += a * x[i].
template <class Real>
void axpy(Real a, const Real* x, Real* y, std::int64_t n) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) y[i] += a * x[i];
}

}  // namespace ssa::cpu
