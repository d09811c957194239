#include "quantize_fp8.h"

#include "kernels/common/check.h"
#include "kernels/quantize_fp8/check_fp8.h"

namespace ssa {

void expect_fp8(const char* op, const char* name, const Fp8Matrix& m, std::int64_t rows, std::int64_t columns) {
  SSA_CHECK(m, op, ": ", name, " is missing, expected ", Shape{rows, columns}.to_string());
  SSA_CHECK(m.rows == rows && m.columns == columns, op, ": ", name, " is ", Shape{m.rows, m.columns}.to_string(),
            ", expected ", Shape{rows, columns}.to_string());
  expect(op, concat(name, ".values").c_str(), m.values, fp8_values_shape(rows, columns), DType::u8);
  expect(op, concat(name, ".scales").c_str(), m.scales, fp8_scales_shape(rows, columns, m.blocks), DType::f32);
}

void expect_whole_fp8(const char* op, const char* name, const Fp8Matrix& m, std::int64_t rows, std::int64_t columns) {
  SSA_CHECK(rows % kFp8Alignment == 0 && columns % kFp8Alignment == 0, op, ": ", name, " is [", rows, ", ", columns,
            "], expected multiples of ", kFp8Alignment);
  expect_fp8(op, name, m, rows, columns);
}

void expect_fp8_buffer(const char* op, const char* name, const Fp8Buffer& buffer, std::int64_t rows,
                       std::int64_t columns, Fp8Blocks blocks, std::int64_t matrices) {
  const std::int64_t values = matrices * fp8_values_shape(rows, columns).count();
  const std::int64_t scales = matrices * fp8_scales_shape(rows, columns, blocks).count();
  SSA_CHECK(buffer.values.count() >= values && buffer.scales.count() >= scales, op, ": ", name, " has room for ",
            buffer.values.count(), " values and ", buffer.scales.count(), " scales, expected at least ", values,
            " and ", scales);
  expect_fp8(op, name, buffer.matrix(rows, columns, blocks), rows, columns);
}

void validate(const QuantizeFp8& p) {
  constexpr auto op = "quantize_fp8";
  expect_rank(op, "x", p.x, 2, "[R, C]");
  SSA_CHECK(p.plain || p.transposed, op, ": no output");
  const std::int64_t R = p.x.dim(0), C = p.columns();
  expect_rows(op, "x", p.x, R, C, p.x.dtype());
  SSA_CHECK(p.x.dim(1) % 8 == 0, op, ": x has rows of ", p.x.dim(1), " elements, expected a multiple of 8");
  if (p.plain) expect_fp8(op, "plain", p.plain, R, C);
  if (p.transposed) expect_fp8(op, "transposed", p.transposed, C, R);
}

}  // namespace ssa
