#include "bench/bench.h"
#include "kernels/attention/gates/gate_alignment.h"

using namespace ssa;

SSA_BENCH(gate_alignment) {
  const std::int64_t B = bench.shapes.rows, T = bench.shapes.tokens, HQ = bench.shapes.model.num_attention_heads,
                     D = bench.shapes.model.head_dim;
  const Shape shape{B, T, HQ, D}, gate{B, T, HQ, 3}, delta{B, T, HQ};
  const double heads = static_cast<double>(B * T * HQ), values = heads * static_cast<double>(D);
  const auto stream_of = [](std::int64_t row) { return static_cast<std::int32_t>(row % 2); };
  bench.measure("gate_alignment_forward", {.bytes = values * 6 + heads * 12}, [&]() -> bench::Call {
    const Tensor out = bench.empty(DType::bf16, shape), alignment = bench.zeros(DType::f64, {1}),
                 gates = bench.random(DType::f32, gate);
    const Tensor full = bench.random(DType::bf16, shape), sparse = bench.random(DType::bf16, shape),
                 which = bench.integers({B}, stream_of);
    return [=](Stream& stream) {
      gate_alignment_forward(stream, {.out = out,
                                      .alignment = alignment,
                                      .gates = gates,
                                      .full = full,
                                      .sparse = sparse,
                                      .full_stream = which,
                                      .alignment_scale = 1e-6});
    };
  });
  bench.measure("gate_alignment_backward", {.bytes = values * 10 + heads * 32}, [&]() -> bench::Call {
    const Tensor d_gates = bench.empty(DType::f32, gate), gates = bench.random(DType::f32, gate),
                 d_out = bench.random(DType::bf16, shape);
    const Tensor d_full = bench.empty(DType::bf16, shape), delta_full = bench.empty(DType::f32, delta),
                 full = bench.random(DType::bf16, shape);
    const Tensor d_sparse = bench.empty(DType::bf16, shape), delta_sparse = bench.empty(DType::f32, delta),
                 sparse = bench.random(DType::bf16, shape);
    const Tensor which = bench.integers({B}, stream_of);
    return [=](Stream& stream) {
      gate_alignment_backward(stream, {.d_gates = d_gates,
                                       .d_full = d_full,
                                       .delta_full = delta_full,
                                       .d_sparse = d_sparse,
                                       .delta_sparse = delta_sparse,
                                       .d_out = d_out,
                                       .gates = gates,
                                       .full = full,
                                       .sparse = sparse,
                                       .full_stream = which,
                                       .full_scale = 1e-5f,
                                       .sparse_scale = 1e-5f});
    };
  });
}
