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

/// The largest relative error of a row or a column of a matrix [M, N].
double largest_line_error(const Values& got, const Values& want, std::int64_t M, std::int64_t N) {
  const auto size = [](std::int64_t n) { return static_cast<std::size_t>(n); };
  std::vector<double> errors(size(M + N)), norms(size(M + N));
  for (std::int64_t m = 0; m < M; ++m)
    for (std::int64_t n = 0; n < N; ++n) {
      const double x = want[size(m * N + n)], difference = got[size(m * N + n)] - x;
      for (const std::int64_t line : {m, M + n}) {
        errors[size(line)] += difference * difference;
        norms[size(line)] += x * x;
      }
    }
  double largest = 0;
  for (std::size_t i = 0; i < errors.size(); ++i) {
    // A line of zeros, which has to be zero, or a NaN, which std::max would drop.
    if (!(errors[i] <= norms[i])) return 1;
    if (norms[i] > 0) largest = std::max(largest, std::sqrt(errors[i] / norms[i]));
  }
  return largest;
}

/// Those that the GPU has.
std::vector<Fp8Kernel> fp8_kernels() {
  std::vector<Fp8Kernel> kernels = {Fp8Kernel::cublaslt};
  if (has_hopper_kernels(Stream(DeviceKind::cuda))) kernels.push_back(Fp8Kernel::hopper);
  return kernels;
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

TEST_CASE("the largest error of a row or a column is found, with zeros and NaN") {
  const Values want = {1, 2, 100, 200, 0, 0};
  CHECK(largest_line_error(want, want, 3, 2) == 0);
  CHECK(std::abs(largest_line_error({1, 3, 100, 200, 0, 0}, want, 3, 2) - std::sqrt(0.2)) < 1e-12);
  CHECK(largest_line_error({1, 2, 100, 200, 0, 1e-9}, want, 3, 2) == 1);
  CHECK(largest_line_error({1, NAN, 100, 200, 0, 0}, want, 3, 2) == 1);
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
  for (const Fp8Kernel kernel : fp8_kernels())
    for (const Fp8MatmulCase& c : kFp8MatmulCases) {
      CAPTURE(static_cast<int>(kernel), c.M, c.N, c.K, c.a_rows, c.f32);
      const Fp8MatmulInputs in(c);
      // Hopper's FP8 tensor cores keep about 14 bits of a sum of 128 products before it is added in f32.
      check_cuda([&](OpRunner& run) { return run_fp8_matmul(run, c, in, kernel); }, 5e-4);
    }
}

TEST_CASE("fp8_matmul on CUDA by the kernel of this project is right in every row and in every column") {
  if (skip_without_hopper_kernels()) return;
  std::vector<Fp8MatmulCase> cases = kFp8HopperCases;
  cases.insert(cases.end(), kFp8MatmulCases.begin(), kFp8MatmulCases.end());
  for (const Fp8MatmulCase& c : cases) {
    CAPTURE(c.M, c.N, c.K, c.a_rows, c.f32);
    const Fp8MatmulInputs in(c);
    OpRunner exact(Precision::exact), cuda(Precision::cuda), again(Precision::cuda);
    const Values want = output(run_fp8_matmul(exact, c, in), "out");
    const Values got = output(run_fp8_matmul(cuda, c, in, Fp8Kernel::hopper), "out");
    CHECK((output(run_fp8_matmul(again, c, in, Fp8Kernel::hopper), "out") == got));
    // The values of rows, and of columns, differ in size by 2^12, so each is compared on its own. bf16 rounds by 2^-9
    // at most; sums of 128 products have about 14 bits, more than that where products cancel.
    CHECK(largest_line_error(got, want, c.M, c.N) < 5e-3);
  }
}

TEST_CASE("fp8_matmul on CUDA overwrites an f32 output unless it accumulates") {
  if (skip_without_gpu()) return;
  for (const Fp8Kernel kernel : fp8_kernels())
    for (const bool a_rows : {true, false}) {
      CAPTURE(static_cast<int>(kernel), a_rows);
      const Fp8MatmulCase c{272, 144, 400, a_rows, true};
      Fp8MatmulInputs in(c);
      const auto product = [&](bool accumulate) {
        OpRunner run(Precision::cuda);
        const Tensor out = run.f32_input(in.out, {c.M, c.N});
        fp8_matmul(run.stream(), {.out = out,
                                  .a = fp8_input(run, in.a, c.M, c.K, a_rows ? Fp8Blocks::row : Fp8Blocks::square),
                                  .b = fp8_input(run, in.b, c.N, c.K, a_rows ? Fp8Blocks::square : Fp8Blocks::row),
                                  .accumulate = accumulate,
                                  .kernel = kernel});
        return run.read(out);
      };
      const Values over_values = product(false);
      in.out.assign(in.out.size(), 0.0);
      CHECK((over_values == product(false)));
      CHECK((over_values == product(true)));
    }
}
