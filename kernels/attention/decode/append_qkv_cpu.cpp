#include "append_qkv.h"

#include <algorithm>
#include <vector>

#include "kernels/common/cpu/cpu.h"
#include "kernels/qkv_rope/qkv_rope.h"

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

void append_qkv(Stream& stream, const AppendQkv& p) {
  dispatch_real(p.q, [&]<class Real>() {
    const Shape added{p.q.dim(0), p.q.dim(1), p.k_cache.dim(2), p.q.dim(3)};
    std::vector<Real> k_memory(static_cast<std::size_t>(added.count())), v_memory(k_memory);
    const Tensor k(k_memory.data(), p.q.dtype(), added), v(v_memory.data(), p.q.dtype(), added);
    cpu::qkv_rope_forward(stream, {.q = p.q,
                                   .k = k,
                                   .v = v,
                                   .gates = p.gates,
                                   .qkvg = p.qkvg,
                                   .positions = p.positions,
                                   .cos_sin = p.cos_sin,
                                   .block_size = p.block_size});
    append<Real>(k, p.positions, p.k_cache, p.k_mean, p.block_size);
    append<Real>(v, p.positions, p.v_cache, p.v_mean, p.block_size);
  });
}

}  // namespace ssa::cpu
