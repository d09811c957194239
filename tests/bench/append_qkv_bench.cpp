#include "bench/bench.h"
#include "kernels/attention/decode/append_qkv.h"

using namespace ssa;

/// One new token per sequence, the last of a block, so that both means are computed.
SSA_BENCH(append_qkv) {
  const bench::Shapes& s = bench.shapes;
  const Shape added{s.rows, 1, s.model.num_key_value_heads, s.model.head_dim},
      query{s.rows, 1, s.model.num_attention_heads, s.model.head_dim};
  const Shape cache{s.rows, s.tokens, s.model.num_key_value_heads, s.model.head_dim};
  const Shape mean{s.rows, s.blocks(), s.model.num_key_value_heads, s.model.head_dim};
  const std::int64_t position = s.tokens / s.model.block_size * s.model.block_size - 1;
  // q is read and written; per tensor of the cache, the token is read and written, its block is read, the mean is
  // written.
  const double elements = 2 * query.count() + 2 * added.count() * (3 + s.model.block_size);
  bench.measure("append_qkv, one token, with means", {.bytes = 2 * elements}, [&]() -> bench::Call {
    const Tensor k_cache = bench.random(DType::bf16, cache), v_cache = bench.random(DType::bf16, cache);
    const Tensor k_mean = bench.empty(DType::bf16, mean), v_mean = bench.empty(DType::bf16, mean);
    const Tensor q = bench.empty(DType::bf16, query),
                 gates = bench.empty(DType::f32, {s.rows, 1, s.model.num_attention_heads, 3});
    const Tensor qkvg = bench.random(DType::bf16, {s.rows, s.model.qkvg_width()});
    const Tensor cos_sin = bench.random(DType::f32, {s.tokens, s.model.head_dim / 2, 2});
    const Tensor positions =
        bench.integers({s.rows, 1}, [=](std::int64_t) { return static_cast<std::int32_t>(position); });
    return [=, block_size = s.model.block_size](Stream& stream) {
      append_qkv(stream, {.q = q,
                          .gates = gates,
                          .k_cache = k_cache,
                          .v_cache = v_cache,
                          .k_mean = k_mean,
                          .v_mean = v_mean,
                          .qkvg = qkvg,
                          .positions = positions,
                          .cos_sin = cos_sin,
                          .block_size = block_size});
    };
  });
}
