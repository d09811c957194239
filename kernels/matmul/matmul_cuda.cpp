// Matrix products by cuBLASLt. The first product of a key makes a plan and chooses its algorithm; later ones use it.
// Products of a few rows have a kernel of their own.
#include <cstddef>
#include <memory>

#include "kernels/fused_linear/fused_linear.h"
#include "kernels/matmul/narrow_matmul.h"
#include "kernels/matmul/plans.h"
#include "matmul.h"
#include "src/runtime/cuda_context.h"

namespace ssa::cuda {

namespace {

void run(CudaContext& context, const MatmulPlan& plan, const cublasLtMatmulAlgo_t& algorithm, const Matmul& p) {
  check(plan.start(context, algorithm, p, p.out.data()), "matmul");
  if (context.debug) check(cudaStreamSynchronize(context.stream), "matmul");
}

const MatmulPlan& existing_plan(Stream& stream, const Matmul& p) {
  const auto& plans = stream.cuda().matmul_plans;
  const MatmulPlan* plan = plans ? plans->find(p) : nullptr;
  SSA_CHECK(plan, "matmul: no product like ", p.a.shape().to_string(), " @ ", p.b.shape().to_string(),
            " was computed on this stream");
  return *plan;
}

constexpr std::int64_t kVector = 8, kLeastToDivide = 256;

/// The part of `columns` that is whole vectors; 0 if it is all of them, or if a product gains nothing from dividing.
std::int64_t whole_vectors(std::int64_t columns) {
  return columns % kVector == 0 || columns < kLeastToDivide ? 0 : columns / kVector * kVector;
}

/// The rows of a matrix from column `first` on: a view of the same row length, whose last row ends in other memory.
Tensor from_column(const Tensor& x, std::int64_t first) {
  auto* data = static_cast<std::byte*>(x.data()) + static_cast<std::size_t>(first) * size_of(x.dtype());
  return {data, x.dtype(), x.shape()};
}

/// Computes a product with padded rows in two parts, and returns true, if their numbers of columns are not whole
/// vectors and the rows of b can be divided. cuBLASLt decides by the numbers of columns, not by the length of rows,
/// whether its fast algorithms fit. The smaller part comes first, so that its rounding in `out` is small compared with
/// the rounding of the sum.
bool matmul_in_parts(Stream& stream, const Matmul& p) {
  const std::int64_t N = p.N(), K = p.K(), columns = whole_vectors(N), terms = whole_vectors(K);
  if (p.transpose_b && p.out.dim(1) > N && columns > 0) {
    Matmul whole = p, rest = p;
    whole.b = p.b.rows(0, columns);
    rest.b = p.b.rows(columns, N);
    rest.out = from_column(p.out, columns);
    cuda::matmul(stream, rest);
    cuda::matmul(stream, whole);
    return true;
  }
  if (!p.transpose_b && !p.transpose_a && p.a.dim(1) > K && terms > 0) {
    Matmul whole = p, rest = p;
    rest.a = from_column(p.a, terms);
    rest.b = p.b.rows(terms, K);
    whole.b = p.b.rows(0, terms);
    whole.accumulate = true;
    cuda::matmul(stream, rest);
    cuda::matmul(stream, whole);
    return true;
  }
  return false;
}

}  // namespace

void matmul(Stream& stream, const Matmul& p) {
  if (p.out.count() == 0) return;
  if (p.a.count() == 0) {  // K = 0, for which cuBLASLt has no algorithm
    if (!p.accumulate) stream.zero(p.out);
    return;
  }
  if (matmul_in_parts(stream, p)) return;
  const bool padded = p.out.dim(1) != p.N() || p.a.dim(1) != (p.transpose_a ? p.M() : p.K());
  if (p.transpose_b && !p.transpose_a && !p.accumulate && !padded && is_narrow(p.a, p.b))
    return narrow_matmul(stream, "matmul", {.out = p.out, .x = p.a, .w = p.b});
  CudaContext& context = stream.cuda();
  if (!context.matmul_plans) context.matmul_plans = std::make_shared<MatmulPlans>(context);
  const MatmulPlan& plan = context.matmul_plans->plan_for(stream, p);
  run(context, plan, plan.algorithm(), p);
}

MatmulChoiceReport matmul_choice_report(Stream& stream) {
  const auto& plans = stream.cuda().matmul_plans;
  return plans ? plans->report() : MatmulChoiceReport{};
}

MatmulChoice matmul_choice(Stream& stream, const Matmul& p) { return existing_plan(stream, p).choice; }

void matmul_with_admitted(Stream& stream, const Matmul& p, std::size_t index) {
  const MatmulPlan& plan = existing_plan(stream, p);
  SSA_CHECK(index < plan.admitted.size(), "matmul: algorithm ", index, " of ", plan.admitted.size());
  run(stream.cuda(), plan, plan.admitted[index], p);
}

}  // namespace ssa::cuda
