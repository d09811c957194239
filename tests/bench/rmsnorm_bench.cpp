#include "bench/bench.h"
#include "bench/fp8_tensors.h"
#include "kernels/rmsnorm/rmsnorm.h"

using namespace ssa;

SSA_BENCH(rmsnorm) {
  const std::int64_t M = bench.shapes.M(), H = bench.shapes.model.hidden_size;
  const Shape rows{M, H};
  const double element_bytes = static_cast<double>(M * H), row_bytes = 2 * element_bytes;
  const auto forward = [&](const Tensor& out) {
    return RmsNormForward{.out = out,
                          .rstd = bench.empty(DType::f32, {M}),
                          .residual = bench.empty(DType::bf16, rows),
                          .x = bench.random(DType::bf16, rows),
                          .delta = bench.random(DType::bf16, rows),
                          .weight = bench.random(DType::bf16, {H}),
                          .eps = 1e-5f};
  };
  const auto backward = [&] {
    return RmsNormBackward{.d_residual = bench.random(DType::bf16, rows),
                           .d_weight = bench.zeros(DType::f32, {H}),
                           .d_out = bench.random(DType::bf16, rows),
                           .residual = bench.random(DType::bf16, rows),
                           .rstd = bench.random(DType::f32, {M}),
                           .weight = bench.random(DType::bf16, {H})};
  };
  const auto add_fp8 = [&](auto& op, Fp8Blocks transposed) {
    op.fp8 = bench::empty_fp8(bench, M, H, Fp8Blocks::row);
    op.fp8_t = bench::empty_fp8(bench, H, M, transposed);
  };
  bench.measure("rmsnorm_forward, with residual add", {.bytes = 4 * row_bytes}, [&]() -> bench::Call {
    return [op = forward(bench.empty(DType::bf16, rows))](Stream& stream) { rmsnorm_forward(stream, op); };
  });
  bench.measure("rmsnorm_backward", {.bytes = 4 * row_bytes},
                [&]() -> bench::Call { return [op = backward()](Stream& stream) { rmsnorm_backward(stream, op); }; });
  bench.measure("rmsnorm_forward, with residual add, FP8", {.bytes = 4 * row_bytes}, [&]() -> bench::Call {
    RmsNormForward op = forward(/*out=*/{});
    add_fp8(op, Fp8Blocks::row);
    return [op](Stream& stream) { rmsnorm_forward(stream, op); };
  });
  bench.measure("rmsnorm_backward, FP8", {.bytes = 4 * row_bytes + 2 * element_bytes}, [&]() -> bench::Call {
    RmsNormBackward op = backward();
    add_fp8(op, Fp8Blocks::square);
    return [op](Stream& stream) { rmsnorm_backward(stream, op); };
  });
}
