// One kernel where the product has few rows. Else the kernels of the single steps.
#include "fused_linear.h"

#include "kernels/common/device/launch.cuh"
#include "kernels/common/device/vector.cuh"
#include "kernels/matmul/matmul.h"
#include "kernels/matmul/narrow_matmul.h"
#include "kernels/rmsnorm/rmsnorm.h"
#include "kernels/swiglu/swiglu.h"
#include "ssa/runtime/arena.h"

namespace ssa::cuda {
namespace {

constexpr auto op = "fused_linear";
constexpr int kThreads = 256;

/// out may be residual.
__global__ void __launch_bounds__(kThreads)
    add_kernel(__nv_bfloat16* out, const __nv_bfloat16* residual, const __nv_bfloat16* x, std::int64_t count) {
  wait_for_previous_kernel();
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) store<1>(out + i, Floats<1>{load<1>(residual + i)[0] + load<1>(x + i)[0]});
}

/// What the single steps leave to each other. One kernel that does several steps does not use it.
struct FusedScratch {
  Tensor norm, rstd, product;

  FusedScratch(Arena& arena, const FusedLinear& p) {
    const std::int64_t M = p.x.dim(0), K = p.x.dim(1), N = p.w.dim(0);
    if (p.norm_weight) {
      norm = arena.allocate("normalized", DType::bf16, {M, K});
      rstd = arena.allocate("rstd", DType::f32, {M});
    }
    if (p.swiglu || p.residual) product = arena.allocate("product", DType::bf16, {M, N});
  }
};

}  // namespace

std::size_t scratch_bytes(const FusedLinear& p) {
  Arena measure;
  const FusedScratch scratch(measure, p);
  return measure.used();
}

void fused_linear(Stream& stream, const FusedLinear& p) {
  const std::size_t bytes = scratch_bytes(p);
  Arena arena(bytes > 0 ? stream.scratch(bytes) : nullptr, bytes);
  const FusedScratch scratch(arena, p);
  const bool narrow = is_narrow(p.x, p.w);
  FusedLinear rest = p;
  if (p.norm_weight && !(narrow && norms_rows(p.x))) {
    cuda::rmsnorm_forward(stream,
                          {.out = scratch.norm, .rstd = scratch.rstd, .x = p.x, .weight = p.norm_weight, .eps = p.eps});
    rest.x = scratch.norm;
    rest.norm_weight = {};
  }
  if (narrow) return narrow_matmul(stream, op, rest);
  const Tensor y = p.swiglu || p.residual ? scratch.product : p.out;
  cuda::matmul(stream, {.out = y, .a = rest.x, .b = p.w, .transpose_b = true});
  if (p.swiglu) cuda::swiglu_forward(stream, {.out = p.out, .gate_up = y});
  if (p.residual)
    launch(stream, op, add_kernel, {.grid = ctas_for(y.count(), kThreads), .block = kThreads, .waits = true},
           bf16(p.out), bf16(p.residual), bf16(y), y.count());
}

}  // namespace ssa::cuda
