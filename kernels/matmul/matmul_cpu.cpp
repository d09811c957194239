#include "ssa/ops/matmul.h"

#include <cblas.h>

#include <algorithm>
#include <limits>

#include "kernels/common/cpu.h"

namespace ssa::cpu {
namespace {

/// A dimension as OpenBLAS wants it.
blasint blas_dim(std::int64_t dim, const Tensor& tensor) {
  SSA_CHECK(dim <= std::numeric_limits<blasint>::max(), "matmul: tensor ", tensor.shape().to_string(),
            " has a dimension beyond OpenBLAS's ", std::numeric_limits<blasint>::max());
  return static_cast<blasint>(dim);
}

template <class Real>
void multiply(const Matmul& p) {
  if (p.out.count() == 0) return;
  const blasint M = blas_dim(p.out.dim(0), p.out), N = blas_dim(p.out.dim(1), p.out);
  const blasint K = blas_dim(p.a.dim(p.transpose_a ? 0 : 1), p.a);
  const blasint a_stride = std::max(blas_dim(p.a.dim(1), p.a), 1), b_stride = std::max(blas_dim(p.b.dim(1), p.b), 1);
  const auto transpose_a = p.transpose_a ? CblasTrans : CblasNoTrans;
  const auto transpose_b = p.transpose_b ? CblasTrans : CblasNoTrans;
  const Real beta = p.accumulate ? 1 : 0;
  const auto gemm = [] {
    if constexpr (sizeof(Real) == sizeof(float))
      return cblas_sgemm;
    else
      return cblas_dgemm;
  }();
  gemm(CblasRowMajor, transpose_a, transpose_b, M, N, K, 1, p.a.as<Real>(), a_stride, p.b.as<Real>(), b_stride, beta,
       p.out.as<Real>(), N);
}

}  // namespace

void matmul(Stream&, const Matmul& p) {
  dispatch_real(p.a, [&]<class Real>() { multiply<Real>(p); });
}

}  // namespace ssa::cpu
