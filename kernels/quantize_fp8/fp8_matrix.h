// A matrix in FP8 with a float32 scale per block of elements: element = value * scale of its block.
//
// Blocks are 128 columns wide and 1 or 128 rows high; the last ones may be smaller. The scale of a block is amax / 448,
// where amax is its largest magnitude (at least 2^-110, so that neither the scale nor its inverse leaves the range of
// float32), and a value is x * (448 / amax), rounded to e4m3. Every operation is an IEEE operation in float32, so CPU
// and GPU give the same bits. A NaN or an infinity makes its whole block NaN.
//
// FP8 products need multiples of 16, so the memory of a matrix has room for them. The columns that this adds are zero,
// and so change no sum. The rows that it adds are not written, and what a product makes of them is not used.
//
// The layouts of the scales are those that cuBLASLt reads (CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F and
// BLK128x128_32F).
#pragma once

#include <cstdint>

#include "ssa/base/float8.h"
#include "ssa/runtime/tensor.h"

namespace ssa {

inline constexpr std::int64_t kFp8Block = 128;

/// Rows and columns of FP8 matrices in memory are multiples of this: 16 bytes, as TMA needs them.
inline constexpr std::int64_t kFp8Alignment = 16;

constexpr std::int64_t fp8_padded(std::int64_t count) {
  return (count + kFp8Alignment - 1) / kFp8Alignment * kFp8Alignment;
}

/// 1 x 128 or 128 x 128 elements share a scale.
enum class Fp8Blocks { row, square };

/// [R, C]. Fp8Buffer::matrix makes one.
struct Fp8Matrix {
  Tensor values = {};  ///< fp8_values_shape(R, C) u8: the codes of float8_e4m3
  Tensor scales = {};  ///< fp8_scales_shape(R, C, blocks) f32
  Fp8Blocks blocks = Fp8Blocks::row;
  std::int64_t rows = 0, columns = 0;  ///< R, C

  explicit operator bool() const { return static_cast<bool>(values); }
};

constexpr std::int64_t fp8_blocks_of(std::int64_t count) { return (count + kFp8Block - 1) / kFp8Block; }

inline Shape fp8_values_shape(std::int64_t rows, std::int64_t columns) {
  return {fp8_padded(rows), fp8_padded(columns)};
}

/// row: [ceil(C / 128), R rounded up to a multiple of 16], see fp8_row_scale_index. square: [ceil(R / 128),
/// ceil(C / 128) rounded up to a multiple of 4]; the scales that rounding up the columns adds are not written and not
/// used.
inline Shape fp8_scales_shape(std::int64_t rows, std::int64_t columns, Fp8Blocks blocks) {
  if (blocks == Fp8Blocks::row) return {fp8_blocks_of(columns), fp8_padded(rows)};
  return {fp8_blocks_of(rows), (fp8_blocks_of(columns) + 3) / 4 * 4};
}

/// The rows that a product computes in multiples of 16.
constexpr std::int64_t fp8_whole_rows(std::int64_t rows) { return rows / kFp8Alignment * kFp8Alignment; }

/// Where the scale of row r and columns 128 `block` .. 128 `block` + 127 of a matrix with row blocks is. The whole rows
/// come first, as a matrix of their own: [blocks, whole rows]; then [blocks, 16] of the last 1 to 15 rows, if any.
constexpr std::int64_t fp8_row_scale_index(std::int64_t rows, std::int64_t blocks, std::int64_t r, std::int64_t block) {
  const std::int64_t whole = fp8_whole_rows(rows);
  return r < whole ? block * whole + r : blocks * whole + block * kFp8Alignment + (r - whole);
}

/// Memory for one FP8 matrix at a time, or for several of one shape, one after another.
struct Fp8Buffer {
  Tensor values = {}, scales = {};  ///< u8 and f32, flat: at least the elements of fp8_values_shape, fp8_scales_shape

  Fp8Matrix matrix(std::int64_t rows, std::int64_t columns, Fp8Blocks blocks) const {
    const Shape of_values = fp8_values_shape(rows, columns), of_scales = fp8_scales_shape(rows, columns, blocks);
    return {.values = values.rows(0, of_values.count()).view(of_values),
            .scales = scales.rows(0, of_scales.count()).view(of_scales),
            .blocks = blocks,
            .rows = rows,
            .columns = columns};
  }

  /// The memory of matrix `index` of several of shape `matrix`.
  Fp8Buffer part(std::int64_t index, const Shape& matrix, Fp8Blocks blocks) const {
    const std::int64_t n = fp8_values_shape(matrix[0], matrix[1]).count();
    const std::int64_t of_scales = fp8_scales_shape(matrix[0], matrix[1], blocks).count();
    return {.values = values.rows(index * n, (index + 1) * n),
            .scales = scales.rows(index * of_scales, (index + 1) * of_scales)};
  }
};

/// Where the scale of element (r, c) is, in elements of `scales`.
inline std::int64_t fp8_scale_index(const Fp8Matrix& m, std::int64_t r, std::int64_t c) {
  if (m.blocks == Fp8Blocks::row) return fp8_row_scale_index(m.rows, fp8_blocks_of(m.columns), r, c / kFp8Block);
  return r / kFp8Block * m.scales.dim(1) + c / kFp8Block;
}

}  // namespace ssa
