#include "fp8_matmul.h"

#include "kernels/common/check.h"
#include "kernels/quantize_fp8/check_fp8.h"

namespace ssa {

void validate(const Fp8Matmul& p) {
  constexpr auto op = "fp8_matmul";
  expect_rank(op, "out", p.out, 2, "[M, N]");
  const std::int64_t M = p.out.dim(0), N = p.out.dim(1);
  expect_rank(op, "a", p.a.values, 2, "[M, K]");
  expect_fp8(op, "a", p.a, M, p.a.values.dim(1));
  expect_fp8(op, "b", p.b, N, p.a.values.dim(1));
  SSA_CHECK(p.a.blocks != p.b.blocks, op, ": a and b have the same blocks, expected row blocks and square blocks");
  SSA_CHECK(p.a.values.count() > 0 && p.b.values.count() > 0, op, ": a is ", p.a.values.shape().to_string(), ", b is ",
            p.b.values.shape().to_string(), ", expected no empty matrix");
  const DType out = p.out.dtype();
  SSA_CHECK(out == DType::f32 || out == DType::f64 || (out == DType::bf16 && !p.accumulate), op, ": out is ",
            name_of(out), p.accumulate ? ", expected f32 to be added to" : ", expected f32 or bf16");
}

#if SSA_WITH_CUDA
namespace cuda {
std::string why_no_fp8(Stream& stream);
}
#endif

std::string why_no_fp8([[maybe_unused]] Stream& stream) {
#if SSA_WITH_CUDA
  if (stream.kind() == DeviceKind::cuda) return cuda::why_no_fp8(stream);
#endif
  return {};
}

}  // namespace ssa
