// FP8 matrices for benchmarks.
#pragma once

#include "bench/bench.h"
#include "kernels/quantize_fp8/quantize_fp8.h"
#include "ssa/runtime/padded_columns.h"

namespace ssa::bench {

inline Fp8Buffer fp8_memory(Bench& bench, std::int64_t rows, std::int64_t columns, Fp8Blocks blocks) {
  return {.values = bench.empty(DType::u8, {fp8_values_shape(rows, columns).count()}),
          .scales = bench.empty(DType::f32, {fp8_scales_shape(rows, columns, blocks).count()})};
}

inline Fp8Matrix empty_fp8(Bench& bench, std::int64_t rows, std::int64_t columns, Fp8Blocks blocks) {
  return fp8_memory(bench, rows, columns, blocks).matrix(rows, columns, blocks);
}

/// Random values in FP8.
inline Fp8Matrix random_fp8(Bench& bench, std::int64_t rows, std::int64_t columns, Fp8Blocks blocks) {
  const Fp8Matrix m = empty_fp8(bench, rows, columns, blocks);
  quantize_fp8(bench.stream, {.plain = m, .x = bench.random(DType::bf16, {rows, padded_columns(columns)})});
  return m;
}

}  // namespace ssa::bench
