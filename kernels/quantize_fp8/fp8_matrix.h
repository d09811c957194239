// A matrix in FP8 with a float32 scale per block of elements: element = value * scale of its block.
//
// Blocks are 128 columns wide and 1 or 128 rows high; the last ones may be smaller. The scale of a block is amax / 448,
// where amax is its largest magnitude (at least 2^-110, so that neither the scale nor its inverse leaves the range of
// float32), and a value is x * (448 / amax), rounded to e4m3. Every operation is an IEEE operation in float32, so CPU
// and GPU give the same bits. A NaN or an infinity makes its whole block NaN.
//
// The layouts of the scales are those that cuBLASLt reads (CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F and
// BLK128x128_32F).
#pragma once

#include <cstdint>

#include "ssa/base/float8.h"
#include "ssa/runtime/tensor.h"

namespace ssa {

inline constexpr std::int64_t kFp8Block = 128;

/// Rows and columns of FP8 matrices are multiples of this: 16 bytes, as TMA needs them.
inline constexpr std::int64_t kFp8Alignment = 16;

/// 1 x 128 or 128 x 128 elements share a scale.
enum class Fp8Blocks { row, square };

struct Fp8Matrix {
  Tensor values = {};  ///< [R, C] u8: the codes of float8_e4m3
  Tensor scales = {};  ///< fp8_scales_shape(R, C, blocks) f32
  Fp8Blocks blocks = Fp8Blocks::row;

  explicit operator bool() const { return static_cast<bool>(values); }
};

constexpr std::int64_t fp8_blocks_of(std::int64_t count) { return (count + kFp8Block - 1) / kFp8Block; }

/// row: [ceil(C / 128), R]. square: [ceil(R / 128), ceil(C / 128) rounded up to a multiple of 4]; the scales that
/// rounding up adds are not written and not read.
inline Shape fp8_scales_shape(std::int64_t rows, std::int64_t columns, Fp8Blocks blocks) {
  if (blocks == Fp8Blocks::row) return {fp8_blocks_of(columns), rows};
  return {fp8_blocks_of(rows), (fp8_blocks_of(columns) + 3) / 4 * 4};
}

/// Memory for one FP8 matrix at a time, or for several of one shape, one after another.
struct Fp8Buffer {
  Tensor values = {}, scales = {};  ///< [at least R C] u8, [at least the elements of fp8_scales_shape] f32

  Fp8Matrix matrix(std::int64_t rows, std::int64_t columns, Fp8Blocks blocks) const {
    const Shape shape = fp8_scales_shape(rows, columns, blocks);
    return {.values = values.rows(0, rows * columns).view({rows, columns}),
            .scales = scales.rows(0, shape.count()).view(shape),
            .blocks = blocks};
  }

  /// The memory of matrix `index` of several of shape `matrix`.
  Fp8Buffer part(std::int64_t index, const Shape& matrix, Fp8Blocks blocks) const {
    const std::int64_t n = matrix.count(), of_scales = fp8_scales_shape(matrix[0], matrix[1], blocks).count();
    return {.values = values.rows(index * n, (index + 1) * n),
            .scales = scales.rows(index * of_scales, (index + 1) * of_scales)};
  }
};

/// Where the scale of element (r, c) is, in elements of `scales`.
inline std::int64_t fp8_scale_index(const Fp8Matrix& m, std::int64_t r, std::int64_t c) {
  if (m.blocks == Fp8Blocks::row) return c / kFp8Block * m.values.dim(0) + r;
  return r / kFp8Block * m.scales.dim(1) + c / kFp8Block;
}

}  // namespace ssa
