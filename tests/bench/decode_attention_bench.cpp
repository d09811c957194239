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

  /// An op over tensors of its own.
  const auto over_keys = [&](std::int64_t keys) {
    const AttentionTensors x(bench, s, keys);
    return DecodeAttention{.out = bench.empty(DType::bf16, x.query),
                           .q = x.q,
                           .k = x.k,
                           .v = x.v,
                           .positions = bench.integers({s.rows, 1}, last_position),
                           .scale = scale};
  };

  bench.measure("decode_attention, all keys", {.bytes = read_bytes(last + 1)}, [&]() -> Call {
    const DecodeAttention op = over_keys(last + 1);
    return [op](Stream& stream) { decode_attention(stream, op); };
  });

  const std::int64_t selected = std::min(s.model.block_counts, blocks);
  const double selected_bytes = read_bytes(selected * s.model.block_size);
  bench.measure("decode_attention, selected blocks", {.bytes = selected_bytes}, [&]() -> Call {
    DecodeAttention op = over_keys(last + 1);
    // Evenly spaced blocks; the last one is the query's own.
    op.indices = bench.integers({s.rows, 1, s.model.num_key_value_heads, selected}, [=](std::int64_t i) {
      return static_cast<std::int32_t>((i % selected + 1) * blocks / selected - 1);
    });
    op.block_size = s.model.block_size;
    return [op](Stream& stream) { decode_attention(stream, op); };
  });

  bench.measure("decode_attention, block means", {.bytes = read_bytes(complete_blocks)}, [&]() -> Call {
    DecodeAttention op = over_keys(blocks);
    op.tokens_per_key = s.model.block_size;
    return [op](Stream& stream) { decode_attention(stream, op); };
  });
}
