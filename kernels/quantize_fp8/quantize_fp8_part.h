// quantize_fp8 of a matrix that several ranks hold, each a flat range of its elements: every rank finds the largest
// magnitudes of its part by block, the ranks take the maxima of these, and each rounds its part. The matrix that the
// parts make up, and its transpose, have the bits that quantize_fp8 writes with square blocks.
#pragma once

#include "kernels/common/dispatch.h"
#include "kernels/quantize_fp8/fp8_matrix.h"

namespace ssa {

/// The largest magnitudes of a part, by block of 128 x 128 of the matrix. C, `first` and n must be multiples of 16.
struct Fp8PartMaxima {
  /// i32 fp8_scales_shape(R, C, square): the bits of the float32 magnitudes, 0 for a block without an element of the
  /// part. As integers, NaN is larger than every number. What rounding up the columns adds is not written.
  Tensor maxima;
  Tensor x;                    ///< [n] act: elements first .. first + n - 1 of the matrix; n may be 0
  std::int64_t first = 0;      ///< row of an element x C + its column
  std::int64_t rows, columns;  ///< R, C
};
SSA_OP(fp8_part_maxima, Fp8PartMaxima);

/// Rounds a part. The same limits as for Fp8PartMaxima.
struct QuantizeFp8Part {
  Fp8Matrix out;           ///< [R, C], square blocks; overwritten: the values of the part, and all scales
  Tensor maxima;           ///< i32: the largest of Fp8PartMaxima over all parts
  Tensor x;                ///< [n] act
  std::int64_t first = 0;  ///< as in Fp8PartMaxima
};
SSA_OP(quantize_fp8_part, QuantizeFp8Part);

/// Copies a matrix with square blocks to its transpose, values and scales. Nothing is rounded. C must be a multiple of
/// 16.
struct TransposeFp8 {
  Fp8Matrix out;  ///< [C, R], square blocks, overwritten
  Fp8Matrix x;    ///< [R, C], square blocks
};
SSA_OP(transpose_fp8, TransposeFp8);

}  // namespace ssa
