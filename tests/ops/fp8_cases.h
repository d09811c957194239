// Test cases of the FP8 ops.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/fp8_matmul/fp8_matmul.h"
#include "kernels/quantize_fp8/quantize_fp8.h"
#include "support/padded_rows.h"

namespace ssa::test {

struct Fp8Shape {
  std::int64_t rows, columns;
};

/// Smaller than a block, whole blocks, the last blocks cut in one or both directions, ssa-1b's projection of q, k, v
/// and gates. Then rows, columns or both that are no multiples of 16: fewer, one more than whole blocks, one less.
inline const std::vector<Fp8Shape> kFp8Shapes = {{16, 16},   {128, 128}, {384, 256}, {144, 48}, {272, 400},
                                                 {96, 2400}, {9, 16},    {257, 144}, {143, 32}, {48, 932},
                                                 {32, 257},  {16, 5},    {129, 127}, {3, 273}};

/// Values that bf16 represents, so that every precision has the same ones. Rows and columns have very different sizes;
/// some blocks are zero.
inline Values fp8_values(std::int64_t rows, std::int64_t columns, std::uint64_t seed) {
  Values x = random_values(rows * columns, seed);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c) {
      double& v = x[static_cast<std::size_t>(r * columns + c)];
      v = std::ldexp(v, static_cast<int>(r * 7 % 11 - c * 5 % 13));
      if (c / kFp8Block == 1 && r % 5 == 0) v = 0;
      v = static_cast<float>(bfloat16(static_cast<float>(v)));
    }
  return x;
}

/// Filled with something that is no scale and no value.
inline Fp8Buffer fp8_buffer(OpRunner& run, std::int64_t rows, std::int64_t columns, Fp8Blocks blocks) {
  const std::int64_t values = fp8_values_shape(rows, columns).count();
  const std::int64_t scales = fp8_scales_shape(rows, columns, blocks).count();
  return {.values = Tensor(run.i32_output({values / 4}).data(), DType::u8, {values}),
          .scales = Tensor(run.i32_output({scales}).data(), DType::f32, {scales})};
}
inline Fp8Matrix fp8_output(OpRunner& run, std::int64_t rows, std::int64_t columns, Fp8Blocks blocks) {
  return fp8_buffer(run, rows, columns, blocks).matrix(rows, columns, blocks);
}

/// x [rows, columns] with rows as quantize_fp8 reads them: padded, with NaN, to a multiple of 8.
inline Tensor fp8_x_input(OpRunner& run, const Values& x, std::int64_t rows, std::int64_t columns) {
  const PaddedRows padded(rows, columns, true);
  return run.act_input(padded.pad(x), padded.shape());
}

/// The bits of an f32 or u8 tensor in any precision.
template <class T>
std::vector<T> read_bits(OpRunner& run, const Tensor& tensor) {
  const auto words = run.read_i32({tensor.data(), DType::i32, {static_cast<std::int64_t>(tensor.bytes() / 4)}});
  std::vector<T> values(tensor.bytes() / sizeof(T));
  std::memcpy(static_cast<void*>(values.data()), words.data(), tensor.bytes());
  return values;
}

/// The codes of the elements. Fails the test unless the columns that fill rows up to a multiple of 16 are zero.
inline std::vector<std::uint8_t> read_codes(OpRunner& run, const Fp8Matrix& m) {
  const std::vector<std::uint8_t> all = read_bits<std::uint8_t>(run, m.values);
  std::vector<std::uint8_t> codes;
  bool zero = true;
  for (std::int64_t r = 0; r < m.rows; ++r) {
    const auto row = all.begin() + r * m.values.dim(1);
    codes.insert(codes.end(), row, row + m.columns);
    zero = zero && std::all_of(row + m.columns, row + m.values.dim(1), [](std::uint8_t code) { return code == 0; });
  }
  REQUIRE(zero);
  return codes;
}

inline Values read_values(OpRunner& run, const Fp8Matrix& m) {
  Values values;
  for (const std::uint8_t code : read_codes(run, m))
    values.push_back(static_cast<float>(std::bit_cast<float8_e4m3>(code)));
  return values;
}

inline Values read_scales(OpRunner& run, const Fp8Matrix& m) {
  const std::vector<float> scales = read_bits<float>(run, m.scales);
  return {scales.begin(), scales.end()};
}

/// x in FP8; with `transposed`, the transpose of x.
inline Fp8Matrix fp8_input(OpRunner& run, const Values& x, std::int64_t rows, std::int64_t columns, Fp8Blocks blocks,
                           bool transposed = false) {
  const Fp8Matrix m = transposed ? fp8_output(run, columns, rows, blocks) : fp8_output(run, rows, columns, blocks);
  quantize_fp8(run.stream(), {.plain = transposed ? Fp8Matrix{} : m,
                              .transposed = transposed ? m : Fp8Matrix{},
                              .x = fp8_x_input(run, x, rows, columns)});
  return m;
}

/// The scales that belong to elements, in the order of the blocks: rounding up the columns of square blocks adds none.
inline Values used_scales(OpRunner& run, const Fp8Matrix& m) {
  const Values all = read_scales(run, m);
  Values used;
  const std::int64_t height = m.blocks == Fp8Blocks::row ? 1 : kFp8Block;
  for (std::int64_t r = 0; r < m.rows; r += height)
    for (std::int64_t c = 0; c < m.columns; c += kFp8Block)
      used.push_back(all[static_cast<std::size_t>(fp8_scale_index(m, r, c))]);
  return used;
}

/// value * scale of every element.
inline Values dequantized(OpRunner& run, const Fp8Matrix& m) {
  const Values values = read_values(run, m), scales = read_scales(run, m);
  const std::int64_t columns = m.columns;
  Values x(values.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto at = static_cast<std::int64_t>(i);
    x[i] = values[i] * scales[static_cast<std::size_t>(fp8_scale_index(m, at / columns, at % columns))];
  }
  return x;
}

inline Values transpose(const Values& x, std::int64_t rows, std::int64_t columns) {
  Values t(x.size());
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c)
      t[static_cast<std::size_t>(c * rows + r)] = x[static_cast<std::size_t>(r * columns + c)];
  return t;
}

struct Fp8MatmulCase {
  std::int64_t M, N, K;
  bool a_rows;  ///< a has row blocks, b square ones; else the other way around
  bool f32;     ///< f32 output, accumulated
};

/// Forward and input gradients (bf16 output), weight gradients (f32 output), those of the LM head last. Then the same
/// four kinds with widths that are no multiples of 16: 12 heads, GPT-2's vocabulary, less than 16 in all.
inline const std::vector<Fp8MatmulCase> kFp8MatmulCases = {
    {128, 128, 128, true, false},   {256, 384, 512, true, false},  {48, 272, 144, true, false},
    {512, 2400, 256, true, false},  {512, 256, 2400, true, false}, {16, 16, 16, true, false},
    {128, 128, 128, false, true},   {384, 256, 512, false, true},  {256, 144, 272, false, true},
    {128, 2048, 4096, false, true}, {144, 64, 8192, false, true},  {16, 32, 16384, false, true},
    {272, 48, 144, true, true},     {2048, 256, 384, true, true},  {16, 16, 8192, true, true},
    {512, 932, 256, true, false},   {48, 257, 144, true, false},   {16, 9, 16, true, false},
    {512, 256, 932, true, false},   {48, 144, 257, true, false},   {16, 16, 9, true, false},
    {932, 256, 512, false, true},   {143, 64, 8192, false, true},  {9, 16, 16, false, true},
    {257, 48, 144, true, true},     {50257, 64, 384, true, true},  {15, 1024, 4096, true, true},
    {130, 141, 155, true, false}};

/// More for the kernel of this project. Tiles are 256 rows of the operand with row blocks by 128 of the other one, and
/// CTAs work in pairs: a tile next to the last one of a pair along the columns; pairs along the rows; the same with the
/// operands exchanged, and rows cut; several tiles per CTA, in more than one band; bf16 output where a has square
/// blocks. Then sums that are split, of all four kinds of output: few tiles, and 66 pairs of tiles and some more.
inline const std::vector<Fp8MatmulCase> kFp8HopperCases = {
    {512, 336, 384, true, false},   {3056, 1400, 144, true, false}, {1392, 3072, 144, false, true},
    {2304, 48, 1040, true, false},  {4608, 2576, 128, true, false}, {272, 400, 272, false, false},
    {16, 16, 128, false, false},    {2320, 272, 640, true, true},   {4112, 4368, 144, false, true},
    {1031, 640, 272, false, true},  {272, 144, 20000, false, true}, {272, 400, 8192, true, false},
    {144, 528, 12304, true, true},  {272, 400, 8208, false, false}, {2400, 2048, 8192, false, true},
    {2064, 2448, 8320, true, false}};

struct Fp8MatmulInputs {
  Values a, b, out;

  explicit Fp8MatmulInputs(const Fp8MatmulCase& c)
      : a(fp8_values(c.M, c.K, 1)), b(fp8_values(c.N, c.K, 2)), out(random_values(c.M * c.N, 3)) {}
};

inline Outputs run_fp8_matmul(OpRunner& run, const Fp8MatmulCase& c, const Fp8MatmulInputs& in,
                              Fp8Kernel kernel = Fp8Kernel::chosen) {
  const PaddedRows padded(c.M, c.N, true, kFp8Alignment);
  const Tensor out = c.f32 ? run.f32_input(padded.pad(in.out), padded.shape()) : run.act_output(padded.shape());
  const Fp8Blocks blocks_a = c.a_rows ? Fp8Blocks::row : Fp8Blocks::square;
  const Fp8Blocks blocks_b = c.a_rows ? Fp8Blocks::square : Fp8Blocks::row;
  fp8_matmul(run.stream(), {.out = out,
                            .a = fp8_input(run, in.a, c.M, c.K, blocks_a),
                            .b = fp8_input(run, in.b, c.N, c.K, blocks_b),
                            .accumulate = c.f32,
                            .kernel = kernel});
  Values got;
  const Values rows = run.read(out);
  for (std::int64_t m = 0; m < c.M; ++m)
    got.insert(got.end(), rows.begin() + m * padded.stride, rows.begin() + m * padded.stride + c.N);
  return {{"out", got}};
}

}  // namespace ssa::test
