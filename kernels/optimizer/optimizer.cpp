#include "optimizer.h"

#include "kernels/common/check.h"

namespace ssa {
namespace {

bool is_real(DType dtype) { return dtype == DType::f32 || dtype == DType::f64 || dtype == DType::bf16; }

}  // namespace

void validate(const SquaredNorm& p) {
  constexpr auto op = "squared_norm";
  expect(op, "out", p.out, {1}, DType::f64);
  expect_rank(op, "x", p.x, 1, "[n]");
  expect(op, "x", p.x, {p.x.dim(0)}, real_of(p.x.dtype()));
}

void validate(const AdamW& p) {
  constexpr auto op = "adamw";
  expect_rank(op, "master", p.master, 1, "[n]");
  const Shape shape = p.master.shape();
  const DType real = real_of(p.master.dtype());
  expect(op, "master", p.master, shape, real);
  const DType moments = p.m.dtype() == DType::bf16 && real == DType::f32 ? DType::bf16 : real;
  expect(op, "m", p.m, shape, moments);
  expect(op, "v", p.v, shape, moments);
  expect(op, "gradient", p.gradient, shape, real);
  if (p.weight) expect(op, "weight", p.weight, shape, p.weight.dtype() == real ? real : DType::bf16);
  SSA_CHECK(p.step >= 1, op, ": step is ", p.step, ", expected at least 1");
}

void validate(const Cast& p) {
  constexpr auto op = "cast";
  expect_rank(op, "x", p.x, 1, "[n]");
  SSA_CHECK(is_real(p.x.dtype()), op, ": x is ", name_of(p.x.dtype()), ", expected f32 or bf16");
  SSA_CHECK(is_real(p.out.dtype()), op, ": out is ", name_of(p.out.dtype()), ", expected f32 or bf16");
  expect(op, "out", p.out, p.x.shape(), p.out.dtype());
}

void validate(const Accumulate& p) {
  constexpr auto op = "accumulate";
  expect_rank(op, "out", p.out, 1, "[n]");
  const DType real = real_of(p.out.dtype());
  expect(op, "out", p.out, p.out.shape(), real);
  expect(op, "x", p.x, p.out.shape(), p.x.dtype() == DType::bf16 ? DType::bf16 : real);
}

/// One partial sum per CTA.
std::size_t cuda::scratch_bytes(const SquaredNorm&) {
  return static_cast<std::size_t>(kSquaredNormPartials) * sizeof(double);
}

}  // namespace ssa
