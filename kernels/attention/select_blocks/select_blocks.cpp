#include "select_blocks.h"

#include "kernels/attention/check.h"

namespace ssa {

void validate(const SelectBlocks& p) {
  constexpr auto op = "select_blocks";
  const AttentionDims dims = attention_dims(op, p.q, "k_mean", p.k_mean);
  const std::int64_t N = block_number(op, dims.T, p.block_size);
  SSA_CHECK(p.block_counts > 0, op, ": block_counts ", p.block_counts, ", expected at least 1");
  // With blocks of one token the published kernel's half chunk is empty: not even the own block would be chosen.
  SSA_CHECK(p.mode == BlockSelection::exact || p.block_size > 1, op,
            ": block_size 1 in reference mode, expected at least 2");
  const std::int64_t slots = selected_slots(p.block_size, p.block_counts, p.mode);
  expect(op, "indices", p.indices, {dims.B, dims.T, dims.HK, slots}, DType::i32);
  expect(op, "k_mean", p.k_mean, dims.key_shape(p.positions ? p.k_mean.dim(1) : N), dims.act);
  expect_if_given(op, "positions", p.positions, {dims.B, dims.T}, DType::i32);
  expect_if_given(op, p.documents, dims.B, dims.T);
  SSA_CHECK(!p.positions || !p.documents, op, ": both positions and documents, expected at most one of them");
}

#if !SSA_WITH_CUDA  // only the CUDA sources know its layout
std::size_t cuda::scratch_bytes(const SelectBlocks&) { return 0; }
#endif

}  // namespace ssa
