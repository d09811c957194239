#include "bench/bench.h"
#include "kernels/matmul/matmul.h"
#include "ssa/runtime/padded_columns.h"

using namespace ssa;

namespace {

/// The three products of a linear layer of K inputs and N outputs.
void measure_layer(bench::Bench& bench, const std::string& layer, std::int64_t N, std::int64_t K) {
  const std::int64_t M = bench.shapes.M();
  const double m = static_cast<double>(M), n = static_cast<double>(N), k = static_cast<double>(K);
  const bench::Work work{.bytes = 2 * (m * n + m * k + n * k), .flops = 2 * m * n * k};
  bench.measure("matmul, " + layer, work, [&]() -> bench::Call {
    const Tensor y = bench.empty(DType::bf16, {M, padded_columns(N)}), x = bench.random(DType::bf16, {M, K}),
                 w = bench.random(DType::bf16, {N, K});
    return [=](Stream& stream) { matmul(stream, {.out = y, .a = x, .b = w, .transpose_b = true}); };
  });
  bench.measure("matmul, " + layer + ", input gradient", work, [&]() -> bench::Call {
    const Tensor d_x = bench.empty(DType::bf16, {M, K}), d_y = bench.random(DType::bf16, {M, padded_columns(N)}),
                 w = bench.random(DType::bf16, {N, K});
    return [=](Stream& stream) { matmul(stream, {.out = d_x, .a = d_y, .b = w}); };
  });
  bench.measure("matmul, " + layer + ", weight gradient", work, [&]() -> bench::Call {
    const Tensor d_w = bench.zeros(DType::f32, {N, K}), d_y = bench.random(DType::bf16, {M, padded_columns(N)}),
                 x = bench.random(DType::bf16, {M, K});
    return [=](Stream& stream) {
      matmul(stream, {.out = d_w, .a = d_y, .b = x, .transpose_a = true, .accumulate = true});
    };
  });
}

}  // namespace

SSA_BENCH(matmul) {
  const bench::Shapes& s = bench.shapes;
  measure_layer(bench, "qkvg", s.model.qkvg_width(), s.model.hidden_size);
  measure_layer(bench, "o", s.model.hidden_size, s.model.num_attention_heads * s.model.head_dim);
  measure_layer(bench, "gate and up", 2 * s.model.intermediate_size, s.model.hidden_size);
  measure_layer(bench, "down", s.model.hidden_size, s.model.intermediate_size);
}
