#include <map>
#include <utility>

#include "ops/matmul_cases.h"

using namespace ssa;
using namespace ssa::test;

namespace {

Values by_loops(const MatmulShape& c, bool transpose_a, bool transpose_b, const MatmulInputs& in) {
  Values out(in.out.size());
  for (std::int64_t m = 0; m < c.M; ++m)
    for (std::int64_t n = 0; n < c.N; ++n) {
      double sum = 0;
      for (std::int64_t k = 0; k < c.K; ++k)
        sum += in.a[static_cast<std::size_t>(transpose_a ? k * c.M + m : m * c.K + k)] *
               in.b[static_cast<std::size_t>(transpose_b ? n * c.K + k : k * c.N + n)];
      out[static_cast<std::size_t>(m * c.N + n)] = sum;
    }
  return out;
}

}  // namespace

TEST_CASE("matmul is the sum of products, with every transposition, accumulated or not") {
  for (const MatmulShape& c : kMatmulShapes) {
    const MatmulInputs in(c);
    std::map<std::pair<bool, bool>, Values> products;
    for (const bool transpose_a : {false, true})
      for (const bool transpose_b : {false, true})
        products[{transpose_a, transpose_b}] = by_loops(c, transpose_a, transpose_b, in);
    for (const MatmulMode& mode : matmul_modes()) {
      if (mode.out_f32) continue;  // one dtype on the CPU
      CAPTURE(c.M, c.N, c.K, mode.transpose_a, mode.transpose_b, mode.accumulate, mode.padded);
      Values want = products[{mode.transpose_a, mode.transpose_b}];
      for (std::size_t i = 0; i < want.size() && mode.accumulate; ++i) want[i] += in.out[i];
      OpRunner exact(Precision::exact), f32(Precision::f32);
      CHECK(relative_error(output(run_matmul(exact, c, mode, in), "out"), want) < 1e-14);
      CHECK(relative_error(output(run_matmul(f32, c, mode, in), "out"), want) < 1e-6);
    }
  }
}

TEST_CASE("matmul in f32 gives the same bits on any number of threads") {
  for (const MatmulShape& c : kMatmulShapes) {
    CAPTURE(c.M, c.N, c.K);
    const MatmulInputs in(c);
    check_f32([&](OpRunner& run) { return run_matmul(run, c, {true, false, true, false}, in); });
  }
}

TEST_CASE("matmul with K = 0 gives zero, or leaves an accumulated output unchanged") {
  const MatmulShape c{3, 4, 0};
  const MatmulInputs in(c);
  OpRunner run(Precision::f32);
  CHECK(output(run_matmul(run, c, {false, false, false, false}, in), "out") == Values(12, 0.0));
  const Tensor before = run.f32_input(in.out, {3, 4});
  CHECK(output(run_matmul(run, c, {false, true, true, false}, in), "out") == run.read(before));
}

TEST_CASE("matmul refuses tensors that do not fit") {
  OpRunner run(Precision::f32);
  const Tensor a = run.act_output({3, 4}), b = run.act_output({4, 5});
  CHECK_THROWS_WITH(matmul(run.stream(), {.out = run.act_output({3, 5}), .a = a, .b = b, .transpose_b = true}),
                    "matmul: a is [3, 4], expected [3, 5]");
  CHECK_THROWS_WITH(matmul(run.stream(), {.out = run.act_output({5, 3}), .a = a, .b = b}),
                    "matmul: out is [5, 3], expected [3, 5]");
  CHECK_THROWS_WITH(matmul(run.stream(), {.out = run.act_output({3, 7}), .a = a, .b = b}),
                    "matmul: out is [3, 7], expected [3, 5]");
  CHECK_THROWS_WITH(matmul(run.stream(), {.out = run.i32_output({3, 5}), .a = a, .b = b}),
                    "matmul: out is i32, expected f32");
}

TEST_CASE("matmul on CUDA agrees with the CPU") {
  if (skip_without_gpu()) return;
  for (const MatmulShape& c : kMatmulShapes) {
    const MatmulInputs in(c);
    for (const MatmulMode& mode : matmul_modes()) {
      CAPTURE(c.M, c.N, c.K, mode.transpose_a, mode.transpose_b, mode.accumulate, mode.out_f32, mode.padded);
      check_cuda([&](OpRunner& run) { return run_matmul(run, c, mode, in); });
    }
  }
}
