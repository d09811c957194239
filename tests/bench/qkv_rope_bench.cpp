#include "bench/bench.h"
#include "bench/fp8_tensors.h"
#include "kernels/qkv_rope/qkv_rope.h"

using namespace ssa;

SSA_BENCH(qkv_rope) {
  const bench::Shapes s = bench.shapes;
  const std::int64_t B = s.rows, T = s.tokens, HQ = s.model.num_attention_heads, HK = s.model.num_key_value_heads,
                     D = s.model.head_dim;
  const Shape query{B, T, HQ, D}, key{B, T, HK, D}, mean{B, s.blocks(), HK, D}, gate{B, T, HQ, 3};
  const double tokens = static_cast<double>(s.M()), heads = static_cast<double>((HQ + 2 * HK) * D),
               gates = 3.0 * static_cast<double>(HQ);
  const auto position = [T](std::int64_t i) { return static_cast<std::int32_t>(i % T); };
  bench.measure("qkv_rope_forward, with the mean of k", {.bytes = tokens * (heads * 4 + gates * 6)},
                [&]() -> bench::Call {
                  const Tensor q = bench.empty(DType::bf16, query), k = bench.empty(DType::bf16, key),
                               v = bench.empty(DType::bf16, key);
                  const Tensor gates_out = bench.empty(DType::f32, gate), k_mean = bench.empty(DType::bf16, mean);
                  const Tensor qkvg = bench.random(DType::bf16, {s.M(), padded_columns(s.model.qkvg_width())}),
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
                                              .block_size = s.model.block_size});
                  };
                });
  const auto backward = [&] {
    return QkvRopeBackward{.d_q = bench.random(DType::f32, query),
                           .d_k = bench.random(DType::f32, key),
                           .d_v = bench.random(DType::f32, key),
                           .d_gates = bench.random(DType::f32, gate),
                           .gates = bench.random(DType::f32, gate),
                           .positions = bench.integers({B, T}, position),
                           .cos_sin = bench.random(DType::f32, {T, D / 2, 2}),
                           .block_size = s.model.block_size};
  };
  const bench::Work backward_work{.bytes = tokens * (heads * 6 + gates * 10)};  // two bytes per output in FP8, too
  bench.measure("qkv_rope_backward", backward_work, [&]() -> bench::Call {
    QkvRopeBackward op = backward();
    op.d_qkvg = bench.empty(DType::bf16, {s.M(), padded_columns(s.model.qkvg_width())});
    return [op](Stream& stream) { qkv_rope_backward(stream, op); };
  });
  bench.measure("qkv_rope_backward, FP8", backward_work, [&]() -> bench::Call {
    QkvRopeBackward op = backward();
    op.fp8 = bench::empty_fp8(bench, s.M(), s.model.qkvg_width(), Fp8Blocks::row);
    op.fp8_t = bench::empty_fp8(bench, s.model.qkvg_width(), s.M(), Fp8Blocks::square);
    return [op](Stream& stream) { qkv_rope_backward(stream, op); };
  });
}
