#include "bench/attention_bench.h"
#include "kernels/attention/stats/attention_stats.h"

using namespace ssa;
using namespace ssa::bench;

/// The least work is one product over all causal pairs.
SSA_BENCH(attention_stats) {
  const Shapes& s = bench.shapes;
  const float scale = 0.125f;
  const double bytes = static_cast<double>(s.M() * s.model.num_attention_heads * s.model.head_dim) * 4;
  bench.measure("attention_stats", {.bytes = bytes, .flops = product_flops(s, causal_pairs(s))}, [&]() -> Call {
    const AttentionTensors x(bench, s.tokens);
    const Tensor mass = bench.zeros(DType::f64, {s.model.num_attention_heads}),
                 entropy = bench.zeros(DType::f64, {s.model.num_attention_heads});
    const Tensor lse = bench.random(DType::f32, x.row);
    const std::vector<std::int32_t> chosen = make_selection(s, Selection::concentrated);
    const Tensor blocks = bench.integers({s.rows, s.tokens, s.model.num_key_value_heads, s.model.block_counts},
                                         [&](std::int64_t i) { return chosen[static_cast<std::size_t>(i)]; });
    return [=, block_size = s.model.block_size](Stream& stream) {
      attention_stats(stream, {.selected_mass = mass,
                               .entropy = entropy,
                               .q = x.q,
                               .k = x.k,
                               .lse = lse,
                               .indices = blocks,
                               .scale = scale,
                               .block_size = block_size});
    };
  });
}
