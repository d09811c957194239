// The ops of the single steps, one after the other.
#include <vector>

#include "fused_linear.h"
#include "kernels/common/cpu/cpu.h"
#include "kernels/matmul/matmul.h"
#include "kernels/rmsnorm/rmsnorm.h"
#include "kernels/swiglu/swiglu.h"

namespace ssa::cpu {
namespace {

/// A tensor with memory of its own.
template <class Real>
class Temporary {
 public:
  explicit Temporary(Shape shape)
      : values_(static_cast<std::size_t>(shape.count())), tensor_(values_.data(), kDTypeOf<Real>, shape) {}
  const Tensor& tensor() const { return tensor_; }

 private:
  std::vector<Real> values_;
  Tensor tensor_;
};

template <class Real>
void fused_linear_of(Stream& stream, const FusedLinear& p) {
  const std::int64_t M = p.x.dim(0), K = p.x.dim(1), N = p.w.dim(0);
  const Temporary<Real> norm(p.norm_weight ? Shape{M, K} : Shape{0}), rstd({M});
  if (p.norm_weight)
    cpu::rmsnorm_forward(
        stream, {.out = norm.tensor(), .rstd = rstd.tensor(), .x = p.x, .weight = p.norm_weight, .eps = p.eps});
  const Temporary<Real> product(p.swiglu || p.residual ? Shape{M, N} : Shape{0});
  const Tensor y = p.swiglu || p.residual ? product.tensor() : p.out;
  cpu::matmul(stream, {.out = y, .a = p.norm_weight ? norm.tensor() : p.x, .b = p.w, .transpose_b = true});
  if (p.swiglu) cpu::swiglu_forward(stream, {.out = p.out, .gate_up = y});
  if (!p.residual) return;
  const Real *residual = p.residual.as<Real>(), *added = y.as<Real>();
  Real* out = p.out.as<Real>();
  for (std::int64_t i = 0; i < M * N; ++i) out[i] = residual[i] + added[i];
}

}  // namespace

void fused_linear(Stream& stream, const FusedLinear& p) {
  dispatch_real(p.x, [&]<class Real>() { fused_linear_of<Real>(stream, p); });
}

}  // namespace ssa::cpu
