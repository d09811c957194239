// The check of FP8 matrices in `validate` functions, as kernels/common/check.h.
#pragma once

#include "kernels/quantize_fp8/fp8_matrix.h"

namespace ssa {

/// Throws unless `m` is present and [rows, columns], and its values and scales have their shapes.
void expect_fp8(const char* op, const char* name, const Fp8Matrix& m, std::int64_t rows, std::int64_t columns);

/// The same, and throws unless rows and columns are multiples of 16.
void expect_whole_fp8(const char* op, const char* name, const Fp8Matrix& m, std::int64_t rows, std::int64_t columns);

/// Throws unless `buffer` has room for `matrices` such matrices.
void expect_fp8_buffer(const char* op, const char* name, const Fp8Buffer& buffer, std::int64_t rows,
                       std::int64_t columns, Fp8Blocks blocks, std::int64_t matrices = 1);

}  // namespace ssa
