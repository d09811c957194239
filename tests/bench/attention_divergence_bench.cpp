#include <cmath>

#include "bench/attention_bench.h"
#include "kernels/attention/stats/attention_divergence.h"

using namespace ssa;
using namespace ssa::bench;

SSA_BENCH(attention_divergence) {
  const Shapes& s = bench.shapes;
  const float scale = 1 / std::sqrt(static_cast<float>(s.model.head_dim));
  const double heads = static_cast<double>(s.M() * s.model.num_attention_heads);
  // full, sparse and q in bf16, lse in f32; the few keys stay in L2.
  const double bytes = heads * (6 * static_cast<double>(s.model.head_dim) + 4);
  bench.measure("attention_divergence, 4 sink tokens", {.bytes = bytes}, [&]() -> Call {
    const AttentionTensors x(bench, s.tokens);
    const Tensor full = bench.random(DType::bf16, x.query), sparse = bench.random(DType::bf16, x.query);
    const Tensor lse = bench.random(DType::f32, x.row);
    const Tensor distance = bench.zeros(DType::f64, {s.model.num_attention_heads}),
                 norm = bench.zeros(DType::f64, {s.model.num_attention_heads}),
                 sink = bench.zeros(DType::f64, {s.model.num_attention_heads});
    return [=](Stream& stream) {
      attention_divergence(stream, {.distance = distance,
                                    .norm = norm,
                                    .sink = sink,
                                    .full = full,
                                    .sparse = sparse,
                                    .q = x.q,
                                    .k = x.k,
                                    .lse = lse,
                                    .scale = scale,
                                    .sink_tokens = 4});
    };
  });
}
