#include "gated_sum.h"

#include "kernels/attention/gates/check_gated_output.h"
#include "kernels/common/check.h"

namespace ssa {

void validate(const GatedSumForward& p) {
  constexpr auto op = "gated_sum_forward";
  expect_rank(op, "selected", p.selected, 4, "[B, T, HQ, D]");
  const Shape heads = p.selected.shape();
  const DType act = p.selected.dtype();
  expect_gated_output(op, p.out, p.fp8, p.fp8_t, heads, act);
  expect(op, "gates", p.gates, {heads[0], heads[1], heads[2], 3}, real_of(act));
  expect_if_given(op, "compressed", p.compressed, heads, act);
  expect_if_given(op, "window", p.window, heads, act);
}

void validate(const GatedSumBackward& p) {
  constexpr auto op = "gated_sum_backward";
  expect_rank(op, "d_out", p.d_out, 4, "[B, T, HQ, D]");
  const Shape heads = p.d_out.shape(), gates{heads[0], heads[1], heads[2], 3}, deltas{heads[0], heads[1], heads[2]};
  const DType act = p.d_out.dtype(), real = real_of(act);
  expect(op, "d_gates", p.d_gates, gates, real);
  expect(op, "gates", p.gates, gates, real);
  expect(op, "selected", p.selected, heads, act);
  expect(op, "d_selected", p.d_selected, heads, act);
  expect(op, "delta_selected", p.delta_selected, deltas, real);
  const auto expect_branch = [&](const Tensor& x, const Tensor& d_x, const Tensor& delta_x, const char* name,
                                 const char* d_name, const char* delta_name) {
    SSA_CHECK(static_cast<bool>(x) == static_cast<bool>(d_x) && static_cast<bool>(x) == static_cast<bool>(delta_x), op,
              ": ", name, ", ", d_name, " and ", delta_name, " come together");
    expect_if_given(op, name, x, heads, act);
    expect_if_given(op, d_name, d_x, heads, act);
    expect_if_given(op, delta_name, delta_x, deltas, real);
  };
  expect_branch(p.compressed, p.d_compressed, p.delta_compressed, "compressed", "d_compressed", "delta_compressed");
  expect_branch(p.window, p.d_window, p.delta_window, "window", "d_window", "delta_window");
}

}  // namespace ssa
