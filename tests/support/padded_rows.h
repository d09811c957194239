// Matrices with padded rows, for tests of ops that take them.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "ssa/runtime/padded_columns.h"
#include "support/op_runner.h"

namespace ssa::test {

/// A matrix whose rows may be padded with NaN, which an op must neither use nor overwrite.
struct PaddedRows {
  std::int64_t rows, columns, stride;

  PaddedRows(std::int64_t row_count, std::int64_t column_count, bool padded, std::int64_t multiple = 8)
      : rows(row_count),
        columns(column_count),
        stride(padded ? padded_columns(column_count, multiple) : column_count) {}

  Shape shape() const { return {rows, stride}; }

  Values pad(const Values& values) const {
    Values padded(static_cast<std::size_t>(rows * stride), std::numeric_limits<double>::quiet_NaN());
    for (std::int64_t row = 0; row < rows; ++row)
      std::copy_n(values.begin() + row * columns, columns, padded.begin() + row * stride);
    return padded;
  }

  /// Fails the test unless the padding is NaN.
  Values unpad(const Values& values) const {
    Values unpadded;
    for (std::int64_t row = 0; row < rows; ++row) {
      const auto begin = values.begin() + row * stride;
      unpadded.insert(unpadded.end(), begin, begin + columns);
      REQUIRE(std::all_of(begin + columns, begin + stride, [](double x) { return std::isnan(x); }));
    }
    return unpadded;
  }
};

}  // namespace ssa::test
