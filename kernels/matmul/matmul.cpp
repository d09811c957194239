#include "matmul.h"

#include "kernels/common/check.h"
#include "kernels/matmul/choice.h"

namespace ssa {

void validate(const Matmul& p) {
  constexpr auto op = "matmul";
  expect_rank(op, "a", p.a, 2, "two dimensions");
  expect_rank(op, "b", p.b, 2, "two dimensions");
  const std::int64_t M = p.a.dim(p.transpose_a ? 1 : 0), K = p.a.dim(p.transpose_a ? 0 : 1);
  const std::int64_t N = p.b.dim(p.transpose_b ? 0 : 1);
  const DType act = p.a.dtype();
  expect(op, "b", p.b, p.transpose_b ? Shape{N, K} : Shape{K, N}, act);
  expect(op, "out", p.out, {M, N}, p.out.dtype() == act ? act : real_of(act));
}

#if SSA_WITH_CUDA
namespace cuda {
MatmulChoiceReport matmul_choice_report(Stream& stream);
}
#endif

MatmulChoiceReport matmul_choice_report([[maybe_unused]] Stream& stream) {
#if SSA_WITH_CUDA
  if (stream.kind() == DeviceKind::cuda) return cuda::matmul_choice_report(stream);
#endif
  return {};
}

}  // namespace ssa
