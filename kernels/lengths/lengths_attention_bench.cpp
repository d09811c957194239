// How long a row must be for attention over selected blocks alone to beat full attention: forward and backward of both
// at the same number of tokens, cut into rows of 1024, 2048, 4096 and so on.
#include <algorithm>
#include <cstdio>
#include <optional>

#include "kernels/common/attention_bench.h"
#include "ssa/ops/causal_attention.h"
#include "ssa/ops/select_blocks.h"
#include "ssa/ops/sparse_attention.h"

using namespace ssa;
using namespace ssa::bench;

namespace {

constexpr std::int64_t kShortest = 1024, kLongest = 32768;

/// Milliseconds of a layer's attention, forward and backward.
struct AttentionTimes {
  double full, sparse;
};

AttentionTimes measure_attention(Bench& bench, const Shapes& s) {
  const float scale = 0.125f;
  const std::int64_t block_size = s.block_size, block_counts = s.block_counts;
  const Shape query{s.rows, s.tokens, s.query_heads, s.head_dim}, key{s.rows, s.tokens, s.key_value_heads, s.head_dim};
  const Shape row{s.rows, s.tokens, s.query_heads}, blocks{s.rows, s.blocks(), s.key_value_heads, s.head_dim};
  const Tensor q = bench.random(DType::bf16, query), k = bench.random(DType::bf16, key);
  const Tensor v = bench.random(DType::bf16, key), k_mean = bench.random(DType::bf16, blocks, 0.25);
  const Tensor d_out = bench.random(DType::bf16, query), delta = bench.random(DType::f32, row);
  const Tensor out = bench.empty(DType::bf16, query), lse = bench.empty(DType::f32, row);
  const Tensor d_q = bench.empty(DType::f32, query), d_k = bench.empty(DType::f32, key);
  const Tensor d_v = bench.empty(DType::f32, key);
  const Tensor indices = bench.empty(DType::i32, {s.rows, s.tokens, s.key_value_heads, s.block_counts});

  const auto full = [=](Stream& stream) {
    causal_attention_forward(stream, {.out = out, .lse = lse, .q = q, .k = k, .v = v, .scale = scale});
    causal_attention_backward(stream, {.d_q = d_q,
                                       .d_k = d_k,
                                       .d_v = d_v,
                                       .d_out = d_out,
                                       .delta = delta,
                                       .lse = lse,
                                       .q = q,
                                       .k = k,
                                       .v = v,
                                       .scale = scale});
  };
  const auto sparse = [=](Stream& stream) {
    select_blocks(stream, {.indices = indices,
                           .q = q,
                           .k_mean = k_mean,
                           .scale = scale,
                           .block_size = block_size,
                           .block_counts = block_counts,
                           .mode = BlockSelection::exact});
    sparse_attention_forward(
        stream,
        {.out = out, .lse = lse, .q = q, .k = k, .v = v, .indices = indices, .scale = scale, .block_size = block_size});
    sparse_attention_backward(stream, {.d_q = d_q,
                                       .d_k = d_k,
                                       .d_v = d_v,
                                       .d_out = d_out,
                                       .delta = delta,
                                       .lse = lse,
                                       .q = q,
                                       .k = k,
                                       .v = v,
                                       .indices = indices,
                                       .scale = scale,
                                       .block_size = block_size});
  };
  return {bench.median_ms({full}), bench.median_ms({sparse})};
}

SSA_BENCH(sparse_crossover) {
  if (!bench.wanted("sparse_crossover")) return;
  std::printf("\n| tokens of a row | full, ms | selection and sparse, ms | full / sparse |\n|---|---|---|---|\n");
  std::optional<double> crossover;
  double previous_ratio = 0;
  for (std::int64_t tokens = kShortest; tokens <= std::min(kLongest, bench.shapes.M()); tokens *= 2) {
    Shapes s = bench.shapes;
    s.rows = bench.shapes.M() / tokens;
    s.tokens = tokens;
    const AttentionTimes ms = measure_attention(bench, s);
    bench.release();
    const double ratio = ms.full / ms.sparse;
    std::printf("| %15lld | %8.3f | %24.3f | %13.2f |\n", static_cast<long long>(tokens), ms.full, ms.sparse, ratio);
    if (!crossover && ratio > 1)  // the ratio grows about in proportion to the length
      crossover = previous_ratio > 0
                      ? static_cast<double>(tokens) / 2 * (1 + (1 - previous_ratio) / (ratio - previous_ratio))
                      : static_cast<double>(tokens) / ratio;
    previous_ratio = ratio;
  }
  if (crossover) std::printf("sparse attention alone is faster from about %.0f tokens on\n", *crossover);
  std::fflush(stdout);
}

}  // namespace
