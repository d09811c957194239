#include "bench/attention_bench.h"
#include "kernels/attention/compressed/compressed_attention.h"

using namespace ssa;
using namespace ssa::bench;

SSA_BENCH(compressed_attention) {
  const Shapes& s = bench.shapes;
  const float scale = 0.125f;
  const double pairs = complete_block_pairs(s);
  const double bytes = static_cast<double>(s.M() * s.model.num_attention_heads * s.model.head_dim) * 4;
  bench.measure("compressed_attention_forward", {.bytes = bytes, .flops = 2 * product_flops(s, pairs)}, [&]() -> Call {
    const AttentionTensors x(bench, s.blocks());
    const Tensor out = bench.empty(DType::bf16, x.query), lse = bench.empty(DType::f32, x.row);
    return [=, block_size = s.model.block_size](Stream& stream) {
      compressed_attention_forward(stream, {.out = out,
                                            .lse = lse,
                                            .q = x.q,
                                            .k_mean = x.k,
                                            .v_mean = x.v,
                                            .documents = x.documents,
                                            .scale = scale,
                                            .block_size = block_size});
    };
  });
  bench.measure("compressed_attention_backward", {.bytes = bytes, .flops = 5 * product_flops(s, pairs)}, [&]() -> Call {
    const AttentionTensors x(bench, s.blocks());
    const Tensor out = bench.empty(DType::bf16, x.query), lse = bench.empty(DType::f32, x.row);
    compressed_attention_forward(bench.stream, {.out = out,
                                                .lse = lse,
                                                .q = x.q,
                                                .k_mean = x.k,
                                                .v_mean = x.v,
                                                .documents = x.documents,
                                                .scale = scale,
                                                .block_size = s.model.block_size});
    const Tensor d_q = bench.empty(DType::f32, x.query), d_k = bench.empty(DType::f32, x.key),
                 d_v = bench.empty(DType::f32, x.key);
    const Tensor d_out = bench.random(DType::bf16, x.query), delta = bench.random(DType::f32, x.row);
    return [=, block_size = s.model.block_size](Stream& stream) {
      compressed_attention_backward(stream, {.d_q = d_q,
                                             .d_k_mean = d_k,
                                             .d_v_mean = d_v,
                                             .d_out = d_out,
                                             .delta = delta,
                                             .lse = lse,
                                             .q = x.q,
                                             .k_mean = x.k,
                                             .v_mean = x.v,
                                             .documents = x.documents,
                                             .scale = scale,
                                             .block_size = block_size});
    };
  });
}
