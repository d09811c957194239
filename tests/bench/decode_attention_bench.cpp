#include <algorithm>
#include <cmath>

#include "bench/attention_bench.h"
#include "kernels/attention/decode/decode_attention.h"

using namespace ssa;
using namespace ssa::bench;

/// One query per sequence, at the last position of the cache. The least work is one read of the keys and values that it
/// attends to.
SSA_BENCH(decode_attention) {
  const std::int64_t last = bench.shapes.tokens - 1, blocks = bench.shapes.blocks();
  const std::int64_t complete_blocks = bench.shapes.tokens / bench.shapes.model.block_size;
  Shapes s = bench.shapes;
  s.tokens = 1;
  const float scale = 1 / std::sqrt(static_cast<float>(s.model.head_dim));
  const auto read_bytes = [&](std::int64_t keys) {
    return 4.0 * static_cast<double>(s.rows * keys * s.model.num_key_value_heads * s.model.head_dim);
  };
  const auto last_position = [=](std::int64_t) { return static_cast<std::int32_t>(last); };

  bench.measure("decode_attention, all keys", {.bytes = read_bytes(last + 1)}, [&]() -> Call {
    const AttentionTensors x(bench, s, last + 1);
    const Tensor out = bench.empty(DType::bf16, x.query), positions = bench.integers({s.rows, 1}, last_position);
    return [=](Stream& stream) {
      decode_attention(stream, {.out = out, .q = x.q, .k = x.k, .v = x.v, .positions = positions, .scale = scale});
    };
  });

  const std::int64_t selected = std::min(s.model.block_counts, blocks);
  bench.measure(
      "decode_attention, selected blocks", {.bytes = read_bytes(selected * s.model.block_size)}, [&]() -> Call {
        const AttentionTensors x(bench, s, last + 1);
        const Tensor out = bench.empty(DType::bf16, x.query), positions = bench.integers({s.rows, 1}, last_position);
        // Evenly spaced blocks; the last one is the query's own.
        const Tensor indices = bench.integers({s.rows, 1, s.model.num_key_value_heads, selected}, [=](std::int64_t i) {
          return static_cast<std::int32_t>((i % selected + 1) * blocks / selected - 1);
        });
        return [=, block_size = s.model.block_size](Stream& stream) {
          decode_attention(stream, {.out = out,
                                    .q = x.q,
                                    .k = x.k,
                                    .v = x.v,
                                    .positions = positions,
                                    .indices = indices,
                                    .scale = scale,
                                    .block_size = block_size});
        };
      });

  bench.measure("decode_attention, block means", {.bytes = read_bytes(complete_blocks)}, [&]() -> Call {
    const AttentionTensors x(bench, s, blocks);
    const Tensor out = bench.empty(DType::bf16, x.query), positions = bench.integers({s.rows, 1}, last_position);
    return [=, block_size = s.model.block_size](Stream& stream) {
      decode_attention(stream, {.out = out,
                                .q = x.q,
                                .k = x.k,
                                .v = x.v,
                                .positions = positions,
                                .scale = scale,
                                .tokens_per_key = block_size});
    };
  });
}
