#include <cmath>
#include <limits>
#include <map>
#include <utility>

#include "ops/fp8_cases.h"

using namespace ssa;
using namespace ssa::test;

namespace {

constexpr Fp8Blocks kBlocks[] = {Fp8Blocks::row, Fp8Blocks::square};

/// The largest magnitude in the block of each element.
Values block_amax(const Values& x, std::int64_t rows, std::int64_t columns, Fp8Blocks blocks) {
  const std::int64_t height = blocks == Fp8Blocks::row ? 1 : kFp8Block;
  std::map<std::pair<std::int64_t, std::int64_t>, double> amax;
  Values result;
  for (const bool complete : {false, true})
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < columns; ++c) {
        double& largest = amax[{r / height, c / kFp8Block}];
        largest = std::max(largest, std::abs(x[static_cast<std::size_t>(r * columns + c)]));
        if (complete) result.push_back(largest);
      }
  return result;
}

}  // namespace

TEST_CASE("quantize_fp8: every element is within half a step of e4m3, and the largest of a block is exact") {
  for (const auto& [rows, columns] : std::vector<Fp8Shape>{{16, 16}, {144, 272}, {19, 133}})
    for (const Fp8Blocks blocks : kBlocks) {
      const Values x = fp8_values(rows, columns, 5), amax = block_amax(x, rows, columns, blocks);
      OpRunner run(Precision::f32);
      const Values got = dequantized(run, fp8_input(run, x, rows, columns, blocks));
      for (std::size_t i = 0; i < x.size(); ++i) {
        // Steps are 2^-3 of the power of two below a value, and 2^-9 below 2^-6; float32 rounds scale and quotient.
        const double scale = amax[i] / 448, step = std::max(std::abs(x[i]) / 8, scale * 0x1p-9);
        INFO(x[i] << " became " << got[i] << " in a block with amax " << amax[i]);
        REQUIRE(std::abs(got[i] - x[i]) <= step / 2 + 1e-6 * std::abs(x[i]));
        if (std::abs(x[i]) == amax[i]) REQUIRE(got[i] == Approx(x[i]).epsilon(1e-6));
      }
    }
}

TEST_CASE("quantize_fp8: the transposed output is that of the transposed matrix, alone or with the plain one") {
  for (const auto& [rows, columns] : kFp8Shapes)
    for (const Fp8Blocks blocks : kBlocks)
      for (const Fp8Blocks blocks_transposed : kBlocks) {
        CAPTURE(rows, columns);
        const Values x = fp8_values(rows, columns, 6);
        OpRunner run(Precision::f32);
        const Fp8Matrix plain = fp8_output(run, rows, columns, blocks);
        const Fp8Matrix both = fp8_output(run, columns, rows, blocks_transposed);
        quantize_fp8(run.stream(), {.plain = plain, .transposed = both, .x = fp8_x_input(run, x, rows, columns)});
        const Fp8Matrix alone = fp8_input(run, x, rows, columns, blocks_transposed, true);
        const Fp8Matrix want = fp8_input(run, transpose(x, rows, columns), columns, rows, blocks_transposed);
        CHECK((read_values(run, both) == read_values(run, want)));
        CHECK((read_values(run, alone) == read_values(run, want)));
        CHECK((used_scales(run, both) == used_scales(run, want)));
        CHECK((used_scales(run, alone) == used_scales(run, want)));
        CHECK((read_values(run, plain) == read_values(run, fp8_input(run, x, rows, columns, blocks))));
      }
}

TEST_CASE(
    "quantize_fp8: zeros, the smallest and the largest numbers stay finite, and what is not finite stays visible") {
  OpRunner run(Precision::f32);
  Values x(16 * 16, 0.0);
  for (std::size_t c = 0; c < 16; ++c) {
    x[16 + c] = std::numeric_limits<float>::denorm_min();
    x[32 + c] = c == 3 ? std::numeric_limits<float>::max() : -1.0;
    x[48 + c] = c == 5 ? std::numeric_limits<double>::infinity() : 1.0;
    x[64 + c] = c == 7 ? std::nan("") : 1.0;
    x[80 + c] = c % 2 == 0 ? 0x1p-120 : -0x1p-121;
  }
  const Values got = dequantized(run, fp8_input(run, x, 16, 16, Fp8Blocks::row));
  for (std::size_t c = 0; c < 16; ++c) {
    CHECK(got[c] == 0);
    CHECK(got[16 + c] == 0);
    CHECK(got[32 + c] == Approx(c == 3 ? std::numeric_limits<float>::max() : 0));
    CHECK(std::isnan(got[48 + c]));
    CHECK(std::isnan(got[64 + c]));
    CHECK(got[80 + c] == Approx(x[80 + c]).epsilon(0.07));  // the scale does not follow below 2^-110
  }
  const Fp8Matrix square = fp8_input(run, x, 16, 16, Fp8Blocks::square);
  for (const double v : dequantized(run, square)) CHECK(std::isnan(v));
}

TEST_CASE("quantize_fp8 gives the same bits on any number of threads") {
  for (const Fp8Blocks blocks : kBlocks)
    check_f32(
        [&](OpRunner& run) {
          const Fp8Matrix m = fp8_input(run, fp8_values(272, 400, 7), 272, 400, blocks);
          return Outputs{{"values", read_values(run, m)}, {"scales", used_scales(run, m)}};
        },
        0);
}

TEST_CASE("quantize_fp8 refuses tensors that do not fit") {
  OpRunner run(Precision::f32);
  const Tensor x = run.act_output({16, 32});
  CHECK_THROWS_WITH(quantize_fp8(run.stream(), {.x = x}), "quantize_fp8: no output");
  CHECK_THROWS_WITH(quantize_fp8(run.stream(), {.plain = fp8_output(run, 32, 32, Fp8Blocks::row), .x = x}),
                    "quantize_fp8: plain is [32, 32], expected [16, 32]");
  CHECK_THROWS_WITH(quantize_fp8(run.stream(), {.plain = fp8_output(run, 16, 16, Fp8Blocks::row), .x = x}),
                    "quantize_fp8: x is [16, 32], expected [16, 16]");
  Fp8Matrix wrong_scales = fp8_output(run, 16, 32, Fp8Blocks::row);
  wrong_scales.blocks = Fp8Blocks::square;
  CHECK_THROWS_WITH(quantize_fp8(run.stream(), {.plain = wrong_scales, .x = x}),
                    "quantize_fp8: plain.scales is [1, 16], expected [1, 4]");
  CHECK_THROWS_WITH(
      quantize_fp8(run.stream(), {.plain = fp8_output(run, 16, 20, Fp8Blocks::row), .x = run.act_output({16, 20})}),
      "quantize_fp8: x has rows of 20 elements, expected a multiple of 8");
}

TEST_CASE("quantize_fp8 on CUDA gives the bits of the CPU") {
  if (skip_without_gpu()) return;
  for (const auto& [rows, columns] : kFp8Shapes)
    for (const Fp8Blocks blocks : kBlocks)
      for (const Fp8Blocks blocks_transposed : kBlocks) {
        CAPTURE(rows, columns, blocks == Fp8Blocks::row, blocks_transposed == Fp8Blocks::row);
        const Values x = fp8_values(rows, columns, 8);
        const auto outputs = [&, rows = rows, columns = columns](Precision precision) {
          OpRunner run(precision);
          const Tensor input = fp8_x_input(run, x, rows, columns);
          const Fp8Matrix plain = fp8_output(run, rows, columns, blocks), one = fp8_output(run, rows, columns, blocks);
          const Fp8Matrix both = fp8_output(run, columns, rows, blocks_transposed);
          const Fp8Matrix other = fp8_output(run, columns, rows, blocks_transposed);
          quantize_fp8(run.stream(), {.plain = plain, .transposed = both, .x = input});
          quantize_fp8(run.stream(), {.plain = one, .x = input});
          quantize_fp8(run.stream(), {.transposed = other, .x = input});
          std::vector<Values> all;
          for (const Fp8Matrix& m : {plain, one, both, other}) {
            all.push_back(read_values(run, m));
            all.push_back(used_scales(run, m));
          }
          return all;
        };
        CHECK((outputs(Precision::cuda) == outputs(Precision::f32)));
      }
}

TEST_CASE("quantize_fp8 on CUDA keeps what is not finite visible") {
  if (skip_without_gpu()) return;
  Values x(128 * 128, 1.0);
  x[5] = std::nan("");
  x[128 * 3 + 7] = std::numeric_limits<double>::infinity();
  OpRunner run(Precision::cuda);
  const Values rows = dequantized(run, fp8_input(run, x, 128, 128, Fp8Blocks::row));
  const Values square = dequantized(run, fp8_input(run, x, 128, 128, Fp8Blocks::square, true));
  for (std::size_t c = 0; c < 128; ++c) {
    CHECK(std::isnan(rows[c]));
    CHECK(std::isnan(rows[128 * 3 + c]));
    CHECK(rows[128 + c] == Approx(1.0));
  }
  for (const double v : square) CHECK(std::isnan(v));
}
