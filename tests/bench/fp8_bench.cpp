#include "bench/bench.h"
#include "kernels/fp8_matmul/fp8_matmul.h"
#include "kernels/quantize_fp8/quantize_fp8.h"

using namespace ssa;

namespace {

Fp8Matrix empty_fp8(bench::Bench& bench, std::int64_t rows, std::int64_t columns, Fp8Blocks blocks) {
  return {.values = bench.empty(DType::u8, {rows, columns}),
          .scales = bench.empty(DType::f32, fp8_scales_shape(rows, columns, blocks)),
          .blocks = blocks};
}

}  // namespace

SSA_BENCH(quantize_fp8) {
  const std::int64_t M = bench.shapes.M(), H = bench.shapes.hidden_size, N = 2 * bench.shapes.intermediate_size;
  const auto elements = [](std::int64_t rows, std::int64_t columns) {
    return static_cast<double>(rows) * static_cast<double>(columns);
  };
  bench.measure("quantize_fp8, x", {.bytes = 3 * elements(M, H)}, [&]() -> bench::Call {
    const Tensor x = bench.random(DType::bf16, {M, H});
    const Fp8Matrix plain = empty_fp8(bench, M, H, Fp8Blocks::row);
    return [=](Stream& stream) { quantize_fp8(stream, {.plain = plain, .x = x}); };
  });
  bench.measure("quantize_fp8, x^T", {.bytes = 3 * elements(M, H)}, [&]() -> bench::Call {
    const Tensor x = bench.random(DType::bf16, {M, H});
    const Fp8Matrix transposed = empty_fp8(bench, H, M, Fp8Blocks::row);
    return [=](Stream& stream) { quantize_fp8(stream, {.transposed = transposed, .x = x}); };
  });
  bench.measure("quantize_fp8, d_y and d_y^T", {.bytes = 4 * elements(M, N)}, [&]() -> bench::Call {
    const Tensor x = bench.random(DType::bf16, {M, N});
    const Fp8Matrix plain = empty_fp8(bench, M, N, Fp8Blocks::row);
    const Fp8Matrix transposed = empty_fp8(bench, N, M, Fp8Blocks::square);
    return [=](Stream& stream) { quantize_fp8(stream, {.plain = plain, .transposed = transposed, .x = x}); };
  });
}

SSA_BENCH(fp8_matmul) {
  const std::int64_t M = bench.shapes.M(), H = bench.shapes.hidden_size, N = 2 * bench.shapes.intermediate_size;
  const double flops = 2 * static_cast<double>(M) * static_cast<double>(N) * static_cast<double>(H);
  const auto quantized = [&](std::int64_t rows, std::int64_t columns, Fp8Blocks blocks) {
    const Fp8Matrix m = empty_fp8(bench, rows, columns, blocks);
    quantize_fp8(bench.stream, {.plain = m, .x = bench.random(DType::bf16, {rows, columns})});
    return m;
  };
  bench.measure("fp8_matmul, gate_up forward", {.flops = flops}, [&]() -> bench::Call {
    const Tensor y = bench.empty(DType::bf16, {M, N});
    const Fp8Matrix x = quantized(M, H, Fp8Blocks::row), w = quantized(N, H, Fp8Blocks::square);
    return [=](Stream& stream) { fp8_matmul(stream, {.out = y, .a = x, .b = w}); };
  });
  bench.measure("fp8_matmul, gate_up input gradient", {.flops = flops}, [&]() -> bench::Call {
    const Tensor d_x = bench.empty(DType::bf16, {M, H});
    const Fp8Matrix d_y = quantized(M, N, Fp8Blocks::row), w = quantized(H, N, Fp8Blocks::square);
    return [=](Stream& stream) { fp8_matmul(stream, {.out = d_x, .a = d_y, .b = w}); };
  });
  bench.measure("fp8_matmul, gate_up weight gradient", {.flops = flops}, [&]() -> bench::Call {
    const Tensor d_w = bench.zeros(DType::f32, {N, H});
    const Fp8Matrix d_y = quantized(N, M, Fp8Blocks::square), x = quantized(H, M, Fp8Blocks::row);
    return [=](Stream& stream) { fp8_matmul(stream, {.out = d_w, .a = d_y, .b = x, .accumulate = true}); };
  });
}
