#include "bench/bench.h"
#include "kernels/qkv_rope/qkv_rope.h"

using namespace ssa;

SSA_BENCH(qkv_rope) {
  const bench::Shapes s = bench.shapes;
  const std::int64_t B = s.rows, T = s.tokens, HQ = s.query_heads, HK = s.key_value_heads, D = s.head_dim;
  const Shape query{B, T, HQ, D}, key{B, T, HK, D}, mean{B, s.blocks(), HK, D}, gate{B, T, HQ, 3};
  const double tokens = static_cast<double>(s.M()), heads = static_cast<double>((HQ + 2 * HK) * D),
               gates = 3.0 * static_cast<double>(HQ);
  const auto position = [T](std::int64_t i) { return static_cast<std::int32_t>(i % T); };
  bench.measure("qkv_rope_forward, with the mean of k", {.bytes = tokens * (heads * 4 + gates * 6)},
                [&]() -> bench::Call {
                  const Tensor q = bench.empty(DType::bf16, query), k = bench.empty(DType::bf16, key),
                               v = bench.empty(DType::bf16, key);
                  const Tensor gates_out = bench.empty(DType::f32, gate), k_mean = bench.empty(DType::bf16, mean);
                  const Tensor qkvg = bench.random(DType::bf16, {s.M(), s.qkvg_width()}),
                               positions = bench.integers({B, T}, position);
                  const Tensor cos_sin = bench.random(DType::f32, {T, D / 2, 2});
                  return [=](Stream& stream) {
                    qkv_rope_forward(stream, {.q = q,
                                              .k = k,
                                              .v = v,
                                              .gates = gates_out,
                                              .k_mean = k_mean,
                                              .qkvg = qkvg,
                                              .positions = positions,
                                              .cos_sin = cos_sin,
                                              .block_size = s.block_size});
                  };
                });
  bench.measure("qkv_rope_backward", {.bytes = tokens * (heads * 6 + gates * 10)}, [&]() -> bench::Call {
    const Tensor d_qkvg = bench.empty(DType::bf16, {s.M(), s.qkvg_width()});
    const Tensor d_q = bench.random(DType::f32, query), d_k = bench.random(DType::f32, key),
                 d_v = bench.random(DType::f32, key);
    const Tensor d_gates = bench.random(DType::f32, gate), gates_in = bench.random(DType::f32, gate);
    const Tensor positions = bench.integers({B, T}, position), cos_sin = bench.random(DType::f32, {T, D / 2, 2});
    return [=](Stream& stream) {
      qkv_rope_backward(stream, {.d_qkvg = d_qkvg,
                                 .d_q = d_q,
                                 .d_k = d_k,
                                 .d_v = d_v,
                                 .d_gates = d_gates,
                                 .gates = gates_in,
                                 .positions = positions,
                                 .cos_sin = cos_sin,
                                 .block_size = s.block_size});
    };
  });
}
