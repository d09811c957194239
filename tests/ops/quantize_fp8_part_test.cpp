#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "kernels/quantize_fp8/quantize_fp8_part.h"
#include "ops/fp8_cases.h"

using namespace ssa;
using namespace ssa::test;

namespace {

/// Those of kFp8Shapes that ranks may have parts of.
std::vector<Fp8Shape> shapes_of_parts() {
  std::vector<Fp8Shape> shapes = kFp8Shapes;
  std::erase_if(shapes, [](const Fp8Shape& shape) { return shape.columns % kFp8Alignment != 0; });
  return shapes;
}

/// Borders of parts of a matrix, multiples of 16 elements: one part; parts of which one is empty; parts that begin and
/// end within rows and blocks; more parts than blocks.
std::vector<std::vector<std::int64_t>> borders_of(std::int64_t count) {
  const auto at = [&](std::int64_t eighths) { return count * eighths / 8 / kFp8Alignment * kFp8Alignment; };
  return {{0, count}, {0, 0, at(3), count}, {0, at(1), at(2), at(3), at(4), at(5), at(6), at(7), count}};
}

/// The part [begin, end) of x as an operand of its own.
Tensor part_of(OpRunner& run, const Values& x, std::int64_t begin, std::int64_t end) {
  if (begin == end) return Tensor(nullptr, run.act(), {0});
  return run.act_input(Values(x.begin() + begin, x.begin() + end), {end - begin});
}

/// The i32 maxima of the parts, as a sum over ranks with ReduceOp::max would leave them.
std::vector<std::vector<std::int32_t>> maxima_of_parts(OpRunner& run, const Values& x, const Fp8Shape& shape,
                                                       const std::vector<std::int64_t>& borders) {
  std::vector<std::vector<std::int32_t>> all;
  for (std::size_t i = 0; i + 1 < borders.size(); ++i) {
    const Tensor maxima = run.i32_output(fp8_scales_shape(shape.rows, shape.columns, Fp8Blocks::square));
    fp8_part_maxima(run.stream(), {.maxima = maxima,
                                   .x = part_of(run, x, borders[i], borders[i + 1]),
                                   .first = borders[i],
                                   .rows = shape.rows,
                                   .columns = shape.columns});
    all.push_back(run.read_i32(maxima));
  }
  return all;
}

/// Every part rounded with the maxima of all, and the transpose of the result.
struct Rounded {
  Fp8Matrix plain, transposed;
};
Rounded round_parts(OpRunner& run, const Values& x, const Fp8Shape& shape, const std::vector<std::int64_t>& borders) {
  const auto [R, C] = shape;
  const auto all = maxima_of_parts(run, x, shape, borders);
  std::vector<std::int32_t> largest = all[0];
  for (const auto& of_part : all)
    for (std::size_t i = 0; i < largest.size(); ++i) largest[i] = std::max(largest[i], of_part[i]);
  const Tensor maxima = run.i32_input(largest, fp8_scales_shape(R, C, Fp8Blocks::square));
  const Rounded out = {fp8_output(run, R, C, Fp8Blocks::square), fp8_output(run, C, R, Fp8Blocks::square)};
  for (std::size_t i = 0; i + 1 < borders.size(); ++i)
    quantize_fp8_part(
        run.stream(),
        {.out = out.plain, .maxima = maxima, .x = part_of(run, x, borders[i], borders[i + 1]), .first = borders[i]});
  transpose_fp8(run.stream(), {.out = out.transposed, .x = out.plain});
  return out;
}

/// What quantize_fp8 makes of the whole matrix.
Rounded round_whole(OpRunner& run, const Values& x, const Fp8Shape& shape) {
  const auto [R, C] = shape;
  const Rounded out = {fp8_output(run, R, C, Fp8Blocks::square), fp8_output(run, C, R, Fp8Blocks::square)};
  quantize_fp8(run.stream(), {.plain = out.plain, .transposed = out.transposed, .x = run.act_input(x, {R, C})});
  return out;
}

/// The codes of values and of transposed values. All codes of NaN become one: a sign of NaN means nothing.
std::vector<std::vector<std::uint8_t>> codes_of(OpRunner& run, const Rounded& m) {
  std::vector<std::vector<std::uint8_t>> all = {read_codes(run, m.plain), read_codes(run, m.transposed)};
  for (auto& codes : all)
    for (std::uint8_t& code : codes)
      if ((code & 0x7f) == 0x7f) code = 0x7f;
  return all;
}

void check_same(OpRunner& run, const Rounded& got, const Rounded& want) {
  CHECK((codes_of(run, got) == codes_of(run, want)));
  CHECK((used_scales(run, got.plain) == used_scales(run, want.plain)));
  CHECK((used_scales(run, got.transposed) == used_scales(run, want.transposed)));
}

}  // namespace

TEST_CASE("fp8_part_maxima has the largest magnitude of each block's elements in the part") {
  for (const Fp8Shape& shape : shapes_of_parts()) {
    const auto [R, C] = shape;
    const Values x = fp8_values(R, C, 11);
    OpRunner run(Precision::f32);
    for (const auto& borders : borders_of(R * C)) {
      const auto got = maxima_of_parts(run, x, shape, borders);
      const Shape blocks = fp8_scales_shape(R, C, Fp8Blocks::square);
      for (std::size_t i = 0; i + 1 < borders.size(); ++i) {
        std::vector<float> want(static_cast<std::size_t>(blocks.count()));
        for (std::int64_t at = borders[i]; at < borders[i + 1]; ++at) {
          const std::int64_t block = at / C / kFp8Block * blocks[1] + at % C / kFp8Block;
          float& largest = want[static_cast<std::size_t>(block)];
          largest = std::max(largest, std::abs(static_cast<float>(x[static_cast<std::size_t>(at)])));
        }
        CAPTURE(R, C, borders[i], borders[i + 1]);
        for (std::int64_t block = 0; block < blocks.count(); ++block) {
          if (block % blocks[1] >= fp8_blocks_of(C)) continue;
          const auto b = static_cast<std::size_t>(block);
          REQUIRE(std::bit_cast<float>(got[i][b]) == want[b]);
        }
      }
    }
  }
}

TEST_CASE("quantize_fp8_part and transpose_fp8: the parts of a matrix have the bits of quantize_fp8 of the whole") {
  for (const Fp8Shape& shape : shapes_of_parts()) {
    CAPTURE(shape.rows, shape.columns);
    const Values x = fp8_values(shape.rows, shape.columns, 12);
    OpRunner run(Precision::f32);
    const Rounded want = round_whole(run, x, shape);
    for (const auto& borders : borders_of(shape.rows * shape.columns))
      check_same(run, round_parts(run, x, shape, borders), want);
  }
}

TEST_CASE("quantize_fp8_part: a NaN of one part makes the block NaN in all parts, as in quantize_fp8") {
  const Fp8Shape shape{144, 272};
  Values x = fp8_values(shape.rows, shape.columns, 13);
  x[3] = std::nan("");
  x[static_cast<std::size_t>(140 * shape.columns + 260)] = -std::numeric_limits<double>::infinity();
  OpRunner run(Precision::f32);
  const Rounded got = round_parts(run, x, shape, borders_of(shape.rows * shape.columns).back());
  CHECK((codes_of(run, got) == codes_of(run, round_whole(run, x, shape))));
  CHECK(std::isnan(dequantized(run, got.plain)[static_cast<std::size_t>(127 * shape.columns + 127)]));
}

TEST_CASE("the ops of parts in FP8 give the same bits on any number of threads") {
  check_f32(
      [&](OpRunner& run) {
        const Fp8Shape shape{272, 400};
        const Rounded m = round_parts(run, fp8_values(272, 400, 14), shape, borders_of(272 * 400).back());
        return Outputs{{"values", read_values(run, m.transposed)}, {"scales", used_scales(run, m.transposed)}};
      },
      0);
}

TEST_CASE("the ops of parts in FP8 refuse tensors that do not fit") {
  OpRunner run(Precision::f32);
  Stream& s = run.stream();
  const Tensor x = run.act_output({64}), maxima = run.i32_output({1, 4});
  const Fp8Matrix square = fp8_output(run, 16, 32, Fp8Blocks::square), row = fp8_output(run, 16, 32, Fp8Blocks::row);
  CHECK_THROWS_WITH(
      fp8_part_maxima(s, {.maxima = maxima, .x = x, .first = 464, .rows = 16, .columns = 32}),
      "fp8_part_maxima: x has elements 464 to 528 of [16, 32], expected a part of it from a multiple of 16 "
      "to another");
  CHECK_THROWS_WITH(
      fp8_part_maxima(s, {.maxima = maxima, .x = x, .first = 8, .rows = 16, .columns = 32}),
      "fp8_part_maxima: x has elements 8 to 72 of [16, 32], expected a part of it from a multiple of 16 to "
      "another");
  CHECK_THROWS_WITH(fp8_part_maxima(s, {.maxima = maxima, .x = x, .first = 0, .rows = 16, .columns = 24}),
                    "fp8_part_maxima: a part of [16, 24], expected a multiple of 16 columns");
  CHECK_THROWS_WITH(
      fp8_part_maxima(s, {.maxima = run.i32_output({1, 1}), .x = x, .first = 0, .rows = 16, .columns = 32}),
      "fp8_part_maxima: maxima is [1, 1], expected [1, 4]");
  CHECK_THROWS_WITH(quantize_fp8_part(s, {.out = row, .maxima = maxima, .x = x}),
                    "quantize_fp8_part: out has blocks of rows, expected square ones");
  CHECK_THROWS_WITH(transpose_fp8(s, {.out = square, .x = square}),
                    "transpose_fp8: out is [16, 32], expected [32, 16]");
}

TEST_CASE("the ops of parts in FP8 on CUDA give the bits of the CPU") {
  if (skip_without_gpu()) return;
  for (const Fp8Shape& shape : shapes_of_parts()) {
    const std::int64_t count = shape.rows * shape.columns;
    for (const auto& borders : borders_of(count)) {
      CAPTURE(shape.rows, shape.columns, borders.size());
      Values x = fp8_values(shape.rows, shape.columns, 15);
      if (shape.rows == 272) x[5] = std::nan("");
      const auto outputs = [&](Precision precision) {
        OpRunner run(precision);
        const Rounded m = round_parts(run, x, shape, borders);
        std::vector<Values> scales = {used_scales(run, m.plain), used_scales(run, m.transposed)};
        if (shape.rows == 272) scales[0][0] = scales[1][0] = 0;  // NaN is not equal to itself
        return std::pair(codes_of(run, m), scales);
      };
      const auto cuda = outputs(Precision::cuda), cpu = outputs(Precision::f32);
      CHECK((cuda.first == cpu.first));
      CHECK((cuda.second == cpu.second));
    }
  }
}
