#include "bench/bench.h"
#include "kernels/attention/decode/append_kv.h"

using namespace ssa;

/// One new token per sequence, the last of a block, so that both means are computed.
SSA_BENCH(append_kv) {
  const bench::Shapes& s = bench.shapes;
  const Shape added{s.rows, 1, s.key_value_heads, s.head_dim};
  const Shape cache{s.rows, s.tokens, s.key_value_heads, s.head_dim};
  const Shape mean{s.rows, s.blocks(), s.key_value_heads, s.head_dim};
  const std::int64_t position = s.tokens / s.block_size * s.block_size - 1;
  // Per tensor: the token is read and written, its block is read, the mean is written.
  const double bytes = 2.0 * static_cast<double>(added.count() * (3 + s.block_size)) * 2;
  bench.measure("append_kv, one token, with means", {.bytes = bytes}, [&]() -> bench::Call {
    const Tensor k_cache = bench.random(DType::bf16, cache), v_cache = bench.random(DType::bf16, cache);
    const Tensor k_mean = bench.empty(DType::bf16, mean), v_mean = bench.empty(DType::bf16, mean);
    const Tensor k = bench.random(DType::bf16, added), v = bench.random(DType::bf16, added);
    const Tensor positions =
        bench.integers({s.rows, 1}, [=](std::int64_t) { return static_cast<std::int32_t>(position); });
    return [=, block_size = s.block_size](Stream& stream) {
      append_kv(stream, {.k_cache = k_cache,
                         .v_cache = v_cache,
                         .k_mean = k_mean,
                         .v_mean = v_mean,
                         .k = k,
                         .v = v,
                         .positions = positions,
                         .block_size = block_size});
    };
  });
}
