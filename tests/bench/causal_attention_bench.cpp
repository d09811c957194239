#include <cmath>
#include <string>

#include "bench/attention_bench.h"
#include "kernels/attention/dense/causal_attention.h"

using namespace ssa;
using namespace ssa::bench;

namespace {

/// `size` is part of the benchmark names.
void measure_attention(Bench& bench, const Shapes& s, const std::string& size) {
  const float scale = 1 / std::sqrt(static_cast<float>(s.model.head_dim));
  for (const std::int64_t window : {std::int64_t{0}, std::int64_t{512}}) {
    const double pairs = window == 0 ? causal_pairs(s) : window_pairs(s, window);
    const std::string name = (window == 0 ? "causal_attention" : "window_512_attention") + size;
    const double bytes = static_cast<double>(s.M() * s.model.num_attention_heads * s.model.head_dim) * 4;
    bench.measure(name + "_forward", {.bytes = bytes, .flops = 2 * product_flops(s, pairs)}, [&]() -> Call {
      const AttentionTensors x(bench, s, s.tokens);
      const Tensor out = bench.empty(DType::bf16, x.query), lse = bench.empty(DType::f32, x.row);
      return [=](Stream& stream) {
        causal_attention_forward(stream, {.out = out,
                                          .lse = lse,
                                          .q = x.q,
                                          .k = x.k,
                                          .v = x.v,
                                          .documents = x.documents,
                                          .scale = scale,
                                          .window = window});
      };
    });
    bench.measure(name + "_backward", {.bytes = bytes, .flops = 5 * product_flops(s, pairs)}, [&]() -> Call {
      const AttentionTensors x(bench, s, s.tokens);
      const Tensor out = bench.empty(DType::bf16, x.query), lse = bench.empty(DType::f32, x.row);
      causal_attention_forward(bench.stream, {.out = out,
                                              .lse = lse,
                                              .q = x.q,
                                              .k = x.k,
                                              .v = x.v,
                                              .documents = x.documents,
                                              .scale = scale,
                                              .window = window});
      const Tensor d_q = bench.empty(DType::f32, x.query), d_k = bench.empty(DType::f32, x.key),
                   d_v = bench.empty(DType::f32, x.key);
      const Tensor d_out = bench.random(DType::bf16, x.query), delta = bench.random(DType::f32, x.row);
      return [=](Stream& stream) {
        causal_attention_backward(stream, {.d_q = d_q,
                                           .d_k = d_k,
                                           .d_v = d_v,
                                           .d_out = d_out,
                                           .delta = delta,
                                           .lse = lse,
                                           .q = x.q,
                                           .k = x.k,
                                           .v = x.v,
                                           .documents = x.documents,
                                           .scale = scale,
                                           .window = window});
      };
    });
  }
}

}  // namespace

SSA_BENCH(causal_attention) { measure_attention(bench, bench.shapes, ""); }

SSA_BENCH(causal_attention_128) {
  if (const auto wide = with_heads_of_128(bench.shapes)) measure_attention(bench, *wide, "_128");
}
