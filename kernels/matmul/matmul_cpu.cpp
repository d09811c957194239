#include "matmul.h"

#include <cblas.h>

#include <algorithm>
#include <limits>

#include "kernels/common/cpu/cpu.h"

namespace ssa::cpu {
namespace {

/// A dimension in the integer type of OpenBLAS.
blasint blas_dim(std::int64_t dim, const Tensor& tensor) {
  SSA_CHECK(dim <= std::numeric_limits<blasint>::max(), "matmul: tensor ", tensor.shape().to_string(),
            " has a dimension above ", std::numeric_limits<blasint>::max(), ", OpenBLAS's limit");
  return static_cast<blasint>(dim);
}

template <class Real>
void multiply(const Matmul& p) {
  if (p.out.count() == 0) return;
  // Checked here, because an exception may not leave a parallel loop.
  const blasint M = blas_dim(p.M(), p.out), N = blas_dim(p.N(), p.out), K = blas_dim(p.K(), p.a);
  const blasint out_stride = blas_dim(p.out.dim(1), p.out);
  const blasint a_stride = std::max(blas_dim(p.a.dim(1), p.a), 1), b_stride = std::max(blas_dim(p.b.dim(1), p.b), 1);
  const auto transpose_a = p.transpose_a ? CblasTrans : CblasNoTrans;
  const auto transpose_b = p.transpose_b ? CblasTrans : CblasNoTrans;
  const Real *a = p.a.as<Real>(), *b = p.b.as<Real>(), beta = p.accumulate ? 1 : 0;
  Real* out = p.out.as<Real>();
  const auto gemm = [] {
    if constexpr (sizeof(Real) == sizeof(float))
      return cblas_sgemm;
    else
      return cblas_dgemm;
  }();
  // OpenBLAS would split a product by the number of threads, which changes its rounding. Tiles of a fixed size, each
  // computed by one thread (OpenBLAS is serial inside a parallel region), give the same bits on any number of threads.
  constexpr blasint kTile = 128;
  const std::int64_t tile_columns = (std::int64_t{N} + kTile - 1) / kTile;
  const std::int64_t tiles = (std::int64_t{M} + kTile - 1) / kTile * tile_columns;
#pragma omp parallel for
  for (std::int64_t tile = 0; tile < tiles; ++tile) {
    const std::int64_t m = tile / tile_columns * kTile, n = tile % tile_columns * kTile;
    gemm(CblasRowMajor, transpose_a, transpose_b, static_cast<blasint>(std::min<std::int64_t>(kTile, M - m)),
         static_cast<blasint>(std::min<std::int64_t>(kTile, N - n)), K, 1, a + (p.transpose_a ? m : m * a_stride),
         a_stride, b + (p.transpose_b ? n * b_stride : n), b_stride, beta, out + m * out_stride + n, out_stride);
  }
}

}  // namespace

void matmul(Stream&, const Matmul& p) {
  dispatch_real(p.a, [&]<class Real>() { multiply<Real>(p); });
}

}  // namespace ssa::cpu
