#include "quantize_fp8_part.h"

#include "kernels/common/check.h"
#include "kernels/quantize_fp8/check_fp8.h"

namespace ssa {
namespace {

void expect_square(const char* op, const char* name, const Fp8Matrix& m, std::int64_t rows, std::int64_t columns) {
  SSA_CHECK(m.blocks == Fp8Blocks::square, op, ": ", name, " has blocks of rows, expected square ones");
  expect_fp8(op, name, m, rows, columns);
}

void expect_part(const char* op, const Tensor& x, std::int64_t first, std::int64_t rows, std::int64_t columns,
                 const Tensor& maxima) {
  SSA_CHECK(columns % kFp8Alignment == 0, op, ": a part of [", rows, ", ", columns, "], expected a multiple of ",
            kFp8Alignment, " columns");
  expect_rank(op, "x", x, 1, "[n]");
  const std::int64_t n = x.count();
  SSA_CHECK(first >= 0 && first + n <= rows * columns && first % kFp8Alignment == 0 && n % kFp8Alignment == 0, op,
            ": x has elements ", first, " to ", first + n, " of [", rows, ", ", columns,
            "], expected a part of it from a multiple of ", kFp8Alignment, " to another");
  expect(op, "maxima", maxima, fp8_scales_shape(rows, columns, Fp8Blocks::square), DType::i32);
}

}  // namespace

void validate(const Fp8PartMaxima& p) { expect_part("fp8_part_maxima", p.x, p.first, p.rows, p.columns, p.maxima); }

void validate(const QuantizeFp8Part& p) {
  constexpr auto op = "quantize_fp8_part";
  const std::int64_t R = p.out.rows, C = p.out.columns;
  expect_part(op, p.x, p.first, R, C, p.maxima);
  expect_square(op, "out", p.out, R, C);
}

void validate(const TransposeFp8& p) {
  constexpr auto op = "transpose_fp8";
  const std::int64_t R = p.x.rows, C = p.x.columns;
  SSA_CHECK(C % kFp8Alignment == 0, op, ": x is [", R, ", ", C, "], expected a multiple of ", kFp8Alignment,
            " columns");
  expect_square(op, "x", p.x, R, C);
  expect_square(op, "out", p.out, C, R);
}

}  // namespace ssa
