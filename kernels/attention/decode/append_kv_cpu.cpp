#include "append_kv.h"

#include <algorithm>

#include "kernels/common/cpu/cpu.h"

namespace ssa::cpu {
namespace {

/// Appends x [B, T, width] to cache [B, C, width] and updates mean [B, N, width] if it is present.
template <class Real>
void append(const Tensor& x, const Tensor& positions, const Tensor& cache, const Tensor& mean,
            std::int64_t block_size) {
  const std::int64_t B = x.dim(0), T = x.dim(1), width = x.dim(2) * x.dim(3), C = cache.dim(1);
  const std::int64_t N = (C + block_size - 1) / block_size;
  for (std::int64_t b = 0; b < B; ++b)
    for (std::int64_t t = 0; t < T; ++t) {
      const std::int64_t position = positions.as<std::int32_t>()[b * T + t], block = position / block_size;
      Real* sequence = cache.as<Real>() + b * C * width;
      std::copy_n(x.as<Real>() + (b * T + t) * width, width, sequence + position * width);
      if (!mean || (position + 1) % block_size != 0) continue;
      Real* sum = mean.as<Real>() + (b * N + block) * width;
      std::fill_n(sum, width, Real{0});
      for (std::int64_t u = block * block_size; u <= position; ++u) axpy(Real{1}, sequence + u * width, sum, width);
      for (std::int64_t i = 0; i < width; ++i) sum[i] /= static_cast<Real>(block_size);
    }
}

}  // namespace

void append_kv(Stream&, const AppendKv& p) {
  dispatch_real(p.k, [&]<class Real>() {
    append<Real>(p.k, p.positions, p.k_cache, p.k_mean, p.block_size);
    append<Real>(p.v, p.positions, p.v_cache, p.v_mean, p.block_size);
  });
}

}  // namespace ssa::cpu
