#include "bench/bench.h"
#include "bench/fp8_tensors.h"
#include "kernels/rmsnorm/rmsnorm.h"

using namespace ssa;

SSA_BENCH(rmsnorm) {
  const std::int64_t M = bench.shapes.M(), H = bench.shapes.hidden_size;
  const Shape rows{M, H};
  const double row_bytes = 2.0 * static_cast<double>(M * H);
  bench.measure("rmsnorm_forward, with residual add", {.bytes = 4 * row_bytes}, [&]() -> bench::Call {
    const Tensor out = bench.empty(DType::bf16, rows), residual = bench.empty(DType::bf16, rows);
    const Tensor x = bench.random(DType::bf16, rows), delta = bench.random(DType::bf16, rows);
    const Tensor weight = bench.random(DType::bf16, {H}), rstd = bench.empty(DType::f32, {M});
    return [=](Stream& stream) {
      rmsnorm_forward(
          stream,
          {.out = out, .rstd = rstd, .residual = residual, .x = x, .delta = delta, .weight = weight, .eps = 1e-5f});
    };
  });
  bench.measure("rmsnorm_backward", {.bytes = 4 * row_bytes}, [&]() -> bench::Call {
    const Tensor d_residual = bench.random(DType::bf16, rows), d_weight = bench.zeros(DType::f32, {H});
    const Tensor d_out = bench.random(DType::bf16, rows), residual = bench.random(DType::bf16, rows);
    const Tensor rstd = bench.random(DType::f32, {M}), weight = bench.random(DType::bf16, {H});
    return [=](Stream& stream) {
      rmsnorm_backward(stream, {.d_residual = d_residual,
                                .d_weight = d_weight,
                                .d_out = d_out,
                                .residual = residual,
                                .rstd = rstd,
                                .weight = weight});
    };
  });
  const double element_bytes = row_bytes / 2;
  bench.measure("rmsnorm_forward, with residual add, FP8", {.bytes = 4 * row_bytes}, [&]() -> bench::Call {
    const Tensor residual = bench.empty(DType::bf16, rows);
    const Tensor x = bench.random(DType::bf16, rows), delta = bench.random(DType::bf16, rows);
    const Tensor weight = bench.random(DType::bf16, {H}), rstd = bench.empty(DType::f32, {M});
    const Fp8Matrix fp8 = bench::empty_fp8(bench, M, H, Fp8Blocks::row);
    const Fp8Matrix fp8_t = bench::empty_fp8(bench, H, M, Fp8Blocks::row);
    return [=](Stream& stream) {
      rmsnorm_forward(stream, {.rstd = rstd,
                               .residual = residual,
                               .x = x,
                               .delta = delta,
                               .weight = weight,
                               .eps = 1e-5f,
                               .fp8 = fp8,
                               .fp8_t = fp8_t});
    };
  });
  bench.measure("rmsnorm_backward, FP8", {.bytes = 4 * row_bytes + 2 * element_bytes}, [&]() -> bench::Call {
    const Tensor d_residual = bench.random(DType::bf16, rows), d_weight = bench.zeros(DType::f32, {H});
    const Tensor d_out = bench.random(DType::bf16, rows), residual = bench.random(DType::bf16, rows);
    const Tensor rstd = bench.random(DType::f32, {M}), weight = bench.random(DType::bf16, {H});
    const Fp8Matrix fp8 = bench::empty_fp8(bench, M, H, Fp8Blocks::row);
    const Fp8Matrix fp8_t = bench::empty_fp8(bench, H, M, Fp8Blocks::square);
    return [=](Stream& stream) {
      rmsnorm_backward(stream, {.d_residual = d_residual,
                                .d_weight = d_weight,
                                .d_out = d_out,
                                .residual = residual,
                                .rstd = rstd,
                                .weight = weight,
                                .fp8 = fp8,
                                .fp8_t = fp8_t});
    };
  });
}
