#include "ops/fp8_cases.h"

using namespace ssa;
using namespace ssa::test;

namespace {

/// a [M, K] @ b [N, K]^T, added to out [M, N].
Values by_loops(const Fp8MatmulCase& c, const Values& a, const Values& b, Values out) {
  for (std::int64_t m = 0; m < c.M; ++m)
    for (std::int64_t n = 0; n < c.N; ++n)
      for (std::int64_t k = 0; k < c.K; ++k)
        out[static_cast<std::size_t>(m * c.N + n)] +=
            a[static_cast<std::size_t>(m * c.K + k)] * b[static_cast<std::size_t>(n * c.K + k)];
  return out;
}

}  // namespace

TEST_CASE("fp8_matmul is the product of what value and scale stand for") {
  for (const Fp8MatmulCase& c : kFp8MatmulCases) {
    if (c.M * c.N * c.K > (1 << 26)) continue;
    CAPTURE(c.M, c.N, c.K);
    const Fp8MatmulInputs in(c);
    OpRunner run(Precision::f32);
    const Fp8Blocks blocks_a = c.a_rows ? Fp8Blocks::row : Fp8Blocks::square;
    const Fp8Blocks blocks_b = c.a_rows ? Fp8Blocks::square : Fp8Blocks::row;
    const Values a = dequantized(run, fp8_input(run, in.a, c.M, c.K, blocks_a));
    const Values b = dequantized(run, fp8_input(run, in.b, c.N, c.K, blocks_b));
    const Values want = by_loops(c, a, b, c.f32 ? in.out : Values(in.out.size(), 0.0));
    CHECK(relative_error(output(run_fp8_matmul(run, c, in), "out"), want) < 1e-6);
  }
}

TEST_CASE("fp8_matmul of normal values is within 4 % of the product before rounding") {
  // e4m3 has 3 mantissa bits: its rounding error is uniform within 2^-4 of a power of two, 2.6 % of a value in the
  // mean, and the errors of the two factors are independent.
  const Fp8MatmulCase c{128, 128, 512, true, false};
  Fp8MatmulInputs in(c);
  in.a = random_values(c.M * c.K, 11);
  in.b = random_values(c.N * c.K, 12);
  OpRunner run(Precision::f32);
  const double error =
      relative_error(output(run_fp8_matmul(run, c, in), "out"), by_loops(c, in.a, in.b, Values(in.out.size(), 0.0)));
  CHECK(error > 0.03);
  CHECK(error < 0.04);
}

TEST_CASE("fp8_matmul in f32 gives the same bits on any number of threads") {
  const Fp8MatmulCase c{256, 384, 512, true, false};
  const Fp8MatmulInputs in(c);
  check_f32([&](OpRunner& run) { return run_fp8_matmul(run, c, in); });
}

TEST_CASE("fp8_matmul refuses tensors that do not fit") {
  OpRunner run(Precision::f32);
  const Fp8Matrix a = fp8_output(run, 16, 32, Fp8Blocks::row), b = fp8_output(run, 48, 32, Fp8Blocks::square);
  CHECK_THROWS_WITH(fp8_matmul(run.stream(), {.out = run.act_output({16, 64}), .a = a, .b = b}),
                    "fp8_matmul: out is [16, 64], expected [16, 48]");
  CHECK_THROWS_WITH(
      fp8_matmul(run.stream(),
                 {.out = run.act_output({16, 48}), .a = a, .b = fp8_output(run, 48, 31, Fp8Blocks::square)}),
      "fp8_matmul: b is [48, 31], expected [48, 32]");
  CHECK_THROWS_WITH(
      fp8_matmul(run.stream(),
                 {.out = run.act_output({16, 47}), .a = a, .b = fp8_output(run, 47, 32, Fp8Blocks::square)}),
      "fp8_matmul: out is [16, 47], expected [16, 48]");
  CHECK_THROWS_WITH(fp8_matmul(run.stream(), {.out = run.act_output({16, 48}),
                                              .a = fp8_output(run, 16, 32, Fp8Blocks::square),
                                              .b = fp8_output(run, 47, 32, Fp8Blocks::row)}),
                    "fp8_matmul: b is [47, 32] with row blocks, expected a multiple of 16 rows");
  CHECK_THROWS_WITH(
      fp8_matmul(run.stream(), {.out = run.act_output({16, 48}), .a = a, .b = fp8_output(run, 48, 32, Fp8Blocks::row)}),
      "fp8_matmul: a and b have the same blocks, expected row blocks and square blocks");
  CHECK_THROWS_WITH(fp8_matmul(run.stream(), {.out = run.i32_output({16, 48}), .a = a, .b = b}),
                    "fp8_matmul: out is i32, expected f32 or bf16");
  CHECK_THROWS_WITH(
      fp8_matmul(
          run.stream(),
          {.out = Tensor(run.act_output({16, 48}).data(), DType::bf16, {16, 48}), .a = a, .b = b, .accumulate = true}),
      "fp8_matmul: out is bf16, expected f32 to be added to");
}

TEST_CASE("fp8_matmul on CUDA agrees with the CPU") {
  if (skip_without_gpu()) return;
  for (const Fp8MatmulCase& c : kFp8MatmulCases) {
    CAPTURE(c.M, c.N, c.K, c.a_rows, c.f32);
    const Fp8MatmulInputs in(c);
    // Hopper's FP8 tensor cores keep about 14 bits of a sum of 128 products before it is added in f32.
    check_cuda([&](OpRunner& run) { return run_fp8_matmul(run, c, in); }, 5e-4);
  }
}
