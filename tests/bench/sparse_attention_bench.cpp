#include "bench/attention_bench.h"
#include "kernels/attention/sparse/sparse_attention.h"

using namespace ssa;
using namespace ssa::bench;

SSA_BENCH(sparse_attention) {
  const Shapes& s = bench.shapes;
  const float scale = 0.125f;
  const double bytes = static_cast<double>(s.M() * s.model.num_attention_heads * s.model.head_dim) * 4;
  for (const Selection kind : {Selection::random, Selection::concentrated}) {
    const std::string name = std::string("sparse_attention_") + name_of(kind);
    if (!bench.wanted(name + "_forward") && !bench.wanted(name + "_backward")) continue;
    const std::vector<std::int32_t> chosen = make_selection(s, kind);
    const double pairs = selected_pairs(s, chosen);
    const auto indices = [&] {
      return bench.integers({s.rows, s.tokens, s.model.num_key_value_heads, s.model.block_counts},
                            [&](std::int64_t i) { return chosen[static_cast<std::size_t>(i)]; });
    };
    bench.measure(name + "_forward", {.bytes = bytes, .flops = 2 * product_flops(s, pairs)}, [&]() -> Call {
      const AttentionTensors x(bench, s.tokens);
      const Tensor out = bench.empty(DType::bf16, x.query), lse = bench.empty(DType::f32, x.row), blocks = indices();
      return [=, block_size = s.model.block_size](Stream& stream) {
        sparse_attention_forward(stream, {.out = out,
                                          .lse = lse,
                                          .q = x.q,
                                          .k = x.k,
                                          .v = x.v,
                                          .indices = blocks,
                                          .scale = scale,
                                          .block_size = block_size});
      };
    });
    bench.measure(name + "_backward", {.bytes = bytes, .flops = 5 * product_flops(s, pairs)}, [&]() -> Call {
      const AttentionTensors x(bench, s.tokens);
      const Tensor out = bench.empty(DType::bf16, x.query), lse = bench.empty(DType::f32, x.row), blocks = indices();
      sparse_attention_forward(bench.stream, {.out = out,
                                              .lse = lse,
                                              .q = x.q,
                                              .k = x.k,
                                              .v = x.v,
                                              .indices = blocks,
                                              .scale = scale,
                                              .block_size = s.model.block_size});
      const Tensor d_q = bench.empty(DType::f32, x.query), d_k = bench.empty(DType::f32, x.key),
                   d_v = bench.empty(DType::f32, x.key);
      const Tensor d_out = bench.random(DType::bf16, x.query), delta = bench.random(DType::f32, x.row);
      return [=, block_size = s.model.block_size](Stream& stream) {
        sparse_attention_backward(stream, {.d_q = d_q,
                                           .d_k = d_k,
                                           .d_v = d_v,
                                           .d_out = d_out,
                                           .delta = delta,
                                           .lse = lse,
                                           .q = x.q,
                                           .k = x.k,
                                           .v = x.v,
                                           .indices = blocks,
                                           .scale = scale,
                                           .block_size = block_size});
      };
    });
  }
}
