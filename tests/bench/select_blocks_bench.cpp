#include "bench/attention_bench.h"
#include "kernels/attention/select_blocks/select_blocks.h"

using namespace ssa;
using namespace ssa::bench;

SSA_BENCH(select_blocks) {
  const Shapes& s = bench.shapes;
  const double pairs = complete_block_pairs(s);
  const double bytes = static_cast<double>(s.M() * s.model.num_attention_heads * s.model.head_dim) * 2;
  for (const BlockSelection mode : {BlockSelection::exact, BlockSelection::reference})
    bench.measure(
        mode == BlockSelection::exact ? "select_blocks" : "select_blocks_reference",
        {.bytes = bytes, .flops = product_flops(s, pairs)}, [&]() -> Call {
          const AttentionTensors x(bench, s.blocks());
          const std::int64_t slots = selected_slots(s.model.block_size, s.model.block_counts, mode);
          const Tensor indices = bench.empty(DType::i32, {s.rows, s.tokens, s.model.num_key_value_heads, slots});
          return [=, block_size = s.model.block_size, counts = s.model.block_counts](Stream& stream) {
            select_blocks(stream, {.indices = indices,
                                   .q = x.q,
                                   .k_mean = x.k,
                                   .documents = x.documents,
                                   .scale = 0.125f,
                                   .block_size = block_size,
                                   .block_counts = counts,
                                   .mode = mode});
          };
        });
}
