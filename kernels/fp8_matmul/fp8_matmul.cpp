#include "fp8_matmul.h"

#include "kernels/common/check.h"
#include "kernels/quantize_fp8/check_fp8.h"

namespace ssa {

void validate(const Fp8Matmul& p) {
  constexpr auto op = "fp8_matmul";
  const std::int64_t M = p.a.rows, N = p.b.rows, K = p.a.columns;
  expect_fp8(op, "a", p.a, M, K);
  expect_fp8(op, "b", p.b, N, K);
  expect(op, "out", p.out, {M, fp8_padded(N)}, p.out.dtype());
  SSA_CHECK(p.a.blocks != p.b.blocks, op, ": a and b have the same blocks, expected row blocks and square blocks");
  SSA_CHECK(p.b.blocks == Fp8Blocks::square || N % kFp8Alignment == 0, op, ": b is [", N, ", ", K,
            "] with row blocks, expected a multiple of ", kFp8Alignment, " rows");
  SSA_CHECK(p.a.values.count() > 0 && p.b.values.count() > 0, op, ": a is ", Shape{M, K}.to_string(), ", b is ",
            Shape{N, K}.to_string(), ", expected no empty matrix");
  const DType out = p.out.dtype();
  SSA_CHECK(out == DType::f32 || out == DType::f64 || (out == DType::bf16 && !p.accumulate), op, ": out is ",
            name_of(out), p.accumulate ? ", expected f32 to be added to" : ", expected f32 or bf16");
}

std::string why_no_fp8([[maybe_unused]] Stream& stream) {
#if SSA_WITH_CUDA
  if (stream.kind() == DeviceKind::cuda) return cuda::why_no_fp8(stream);
#endif
  return {};
}

}  // namespace ssa
