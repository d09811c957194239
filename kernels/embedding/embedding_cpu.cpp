#include <algorithm>

#include "embedding.h"
#include "kernels/common/cpu/cpu.h"

namespace ssa::cpu {
namespace {

template <class Real>
void forward(const EmbeddingForward& p) {
  const std::int64_t M = p.ids.dim(0), H = p.weight.dim(1);
  const Real* weight = p.weight.as<Real>();
  const std::int32_t* ids = p.ids.as<std::int32_t>();
  Real* out = p.out.as<Real>();
#pragma omp parallel for
  for (std::int64_t m = 0; m < M; ++m) std::copy_n(weight + ids[m] * H, H, out + m * H);
}

template <class Real>
void backward(const EmbeddingBackward& p) {
  constexpr std::int64_t kColumns = 64;
  const std::int64_t M = p.ids.dim(0), H = p.d_weight.dim(1);
  const Real* d_out = p.d_out.as<Real>();
  const std::int32_t* ids = p.ids.as<std::int32_t>();
  Real* d_weight = p.d_weight.as<Real>();
  // The threads split columns, not tokens: two tokens may have the same id, and their sum must keep its order.
#pragma omp parallel for
  for (std::int64_t h = 0; h < H; h += kColumns)
    for (std::int64_t m = 0; m < M; ++m)
      axpy(Real{1}, d_out + m * H + h, d_weight + ids[m] * H + h, std::min(kColumns, H - h));
}

}  // namespace

void embedding_forward(Stream&, const EmbeddingForward& p) {
  dispatch_real(p.weight, [&]<class Real>() { forward<Real>(p); });
}

void embedding_backward(Stream&, const EmbeddingBackward& p) {
  dispatch_real(p.d_out, [&]<class Real>() { backward<Real>(p); });
}

}  // namespace ssa::cpu
