#include "matmul.h"

#include "kernels/common/check.h"
#include "kernels/matmul/choice.h"

namespace ssa {

void validate(const Matmul& p) {
  constexpr auto op = "matmul";
  expect_rank(op, "a", p.a, 2, "two dimensions");
  expect_rank(op, "b", p.b, 2, "two dimensions");
  expect_rank(op, "out", p.out, 2, "two dimensions");
  const DType act = p.b.dtype();
  expect_rows(op, "a", p.a, p.transpose_a ? p.K() : p.M(), p.transpose_a ? p.M() : p.K(), act);
  expect_rows(op, "out", p.out, p.M(), p.N(), p.out.dtype() == act ? act : real_of(act));
}

MatmulChoiceReport matmul_choice_report([[maybe_unused]] Stream& stream) {
#if SSA_WITH_CUDA
  if (stream.kind() == DeviceKind::cuda) return cuda::matmul_choice_report(stream);
#endif
  return {};
}

}  // namespace ssa
