#include "bench/bench.h"
#include "kernels/attention/gates/gated_sum.h"

using namespace ssa;

SSA_BENCH(gated_sum) {
  const std::int64_t B = bench.shapes.rows, T = bench.shapes.tokens, HQ = bench.shapes.model.num_attention_heads,
                     D = bench.shapes.model.head_dim;
  const Shape shape{B, T, HQ, D}, gate{B, T, HQ, 3}, delta{B, T, HQ};
  const double heads = static_cast<double>(B * T * HQ), values = heads * static_cast<double>(D);
  bench.measure("gated_sum_forward, one branch", {.bytes = values * 4 + heads * 12}, [&]() -> bench::Call {
    const Tensor out = bench.empty(DType::bf16, shape), gates = bench.random(DType::f32, gate),
                 x = bench.random(DType::bf16, shape);
    return [=](Stream& stream) { gated_sum_forward(stream, {.out = out, .gates = gates, .selected = x}); };
  });
  bench.measure("gated_sum_forward, three branches", {.bytes = values * 8 + heads * 12}, [&]() -> bench::Call {
    const Tensor out = bench.empty(DType::bf16, shape), gates = bench.random(DType::f32, gate);
    const Tensor x = bench.random(DType::bf16, shape), y = bench.random(DType::bf16, shape),
                 z = bench.random(DType::bf16, shape);
    return [=](Stream& stream) {
      gated_sum_forward(stream, {.out = out, .gates = gates, .selected = x, .compressed = y, .window = z});
    };
  });
  bench.measure("gated_sum_backward, one branch", {.bytes = values * 6 + heads * 28}, [&]() -> bench::Call {
    const Tensor d_gates = bench.empty(DType::f32, gate), d_x = bench.empty(DType::bf16, shape),
                 delta_x = bench.empty(DType::f32, delta);
    const Tensor d_out = bench.random(DType::bf16, shape), gates = bench.random(DType::f32, gate),
                 x = bench.random(DType::bf16, shape);
    return [=](Stream& stream) {
      gated_sum_backward(stream, {.d_gates = d_gates,
                                  .d_selected = d_x,
                                  .delta_selected = delta_x,
                                  .d_out = d_out,
                                  .gates = gates,
                                  .selected = x});
    };
  });
  bench.measure("gated_sum_backward, three branches", {.bytes = values * 14 + heads * 36}, [&]() -> bench::Call {
    const Tensor d_gates = bench.empty(DType::f32, gate), d_out = bench.random(DType::bf16, shape),
                 gates = bench.random(DType::f32, gate);
    const Tensor d_x = bench.empty(DType::bf16, shape), delta_x = bench.empty(DType::f32, delta),
                 x = bench.random(DType::bf16, shape);
    const Tensor d_y = bench.empty(DType::bf16, shape), delta_y = bench.empty(DType::f32, delta),
                 y = bench.random(DType::bf16, shape);
    const Tensor d_z = bench.empty(DType::bf16, shape), delta_z = bench.empty(DType::f32, delta),
                 z = bench.random(DType::bf16, shape);
    return [=](Stream& stream) {
      gated_sum_backward(stream, {.d_gates = d_gates,
                                  .d_selected = d_x,
                                  .delta_selected = delta_x,
                                  .d_compressed = d_y,
                                  .delta_compressed = delta_y,
                                  .d_window = d_z,
                                  .delta_window = delta_z,
                                  .d_out = d_out,
                                  .gates = gates,
                                  .selected = x,
                                  .compressed = y,
                                  .window = z});
    };
  });
}
