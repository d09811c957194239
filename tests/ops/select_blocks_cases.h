// Cases of select_blocks, for its tests and its benchmark.
#pragma once

#include "kernels/attention/select_blocks/select_blocks.h"
#include "ops/attention_cases.h"

namespace ssa::test {

enum class Ties {
  none,
  all,    ///< q = 0: all complete blocks are equally important
  pairs,  ///< blocks 2i and 2i + 1 have the same mean key
};

struct SelectBlocksCase {
  AttentionDims dims;
  std::int64_t block_size, block_counts;
  BlockSelection mode = BlockSelection::exact;
  Ties ties = Ties::none;
  double query_size = 1.5;  ///< standard deviation of scores
  PieceBegins begins = {};

  std::int64_t blocks() const { return block_number(dims.T, block_size); }
  std::int64_t slots() const { return selected_slots(block_size, block_counts, mode); }
  std::string to_string() const {
    return concat(dims.to_string(), " block_size ", block_size, " block_counts ", block_counts, " ",
                  mode == BlockSelection::exact ? "exact" : "reference", " ties ", static_cast<int>(ties),
                  " query_size ", query_size, ssa::test::to_string(begins));
  }
};

inline bool cuda_supports(const SelectBlocksCase& c) {
  return cuda_supports_head_dim(c.dims) && cuda_supports_block_size(c.block_size);
}

/// First small edge cases: less than a block, one block selected, block_counts above the number of blocks, an odd
/// block_size in reference mode, block_counts equal to and just above block_size / 2. Then the group and block sizes of
/// the kernels, sequences of several chunks of the reference mode (block_size^2 tokens each), and ties everywhere.
inline const std::vector<SelectBlocksCase> kSelectBlocksCases = {
    {{1, 1, 1, 1, 8}, 4, 1},
    {{2, 3, 2, 3, 6}, 4, 2},
    {{1, 33, 2, 1, 8}, 3, 1},
    {{2, 61, 2, 2, 8}, 4, 3},
    {{1, 50, 1, 16, 6}, 3, 5},
    {{1, 31, 1, 3, 8}, 4, 20},
    {{1, 90, 2, 2, 8}, 4, 2, BlockSelection::reference},
    {{2, 90, 2, 2, 8}, 4, 3, BlockSelection::reference},
    {{1, 90, 1, 3, 6}, 4, 7, BlockSelection::reference},
    {{1, 50, 1, 2, 8}, 3, 2, BlockSelection::reference},
    {{1, 45, 1, 1, 8}, 2, 1, BlockSelection::reference},
    {{2, 61, 2, 3, 8}, 4, 5, BlockSelection::exact, Ties::all},
    {{1, 90, 2, 2, 8}, 4, 4, BlockSelection::reference, Ties::all},
    {{2, 90, 1, 2, 8}, 4, 6, BlockSelection::exact, Ties::pairs},
    {{1, 90, 1, 16, 8}, 4, 3, BlockSelection::reference, Ties::pairs},
    {{1, 1, 1, 1, 64}, 16, 4},
    {{2, 15, 1, 2, 64}, 16, 1},
    {{1, 17, 2, 8, 64}, 16, 16},
    {{2, 255, 1, 16, 64}, 16, 4},
    {{1, 273, 2, 3, 128}, 32, 4},
    {{1, 273, 1, 1, 64}, 16, 18},
    {{2, 600, 1, 16, 64}, 16, 16},
    {{1, 600, 1, 32, 64}, 16, 4},
    {{1, 600, 2, 8, 128}, 64, 4},
    {{1, 600, 1, 16, 64}, 16, 16, BlockSelection::reference},
    {{1, 1100, 1, 2, 64}, 32, 32, BlockSelection::reference},
    {{1, 600, 1, 16, 64}, 16, 16, BlockSelection::exact, Ties::all},
    {{1, 600, 1, 2, 64}, 16, 16, BlockSelection::reference, Ties::all},
    {{1, 600, 1, 16, 64}, 16, 16, BlockSelection::exact, Ties::none, 28.0},  // exponentials of at least 2^127
    // Documents: shorter than a block, as long as one, longer than a chunk of the reference mode.
    {{2, 61, 2, 2, 8}, 4, 3, BlockSelection::exact, Ties::none, 1.5, {4, 8, 48}},
    {{1, 50, 1, 3, 6}, 1, 2, BlockSelection::exact, Ties::none, 1.5, {1, 2, 30}},
    {{2, 61, 1, 3, 8}, 4, 5, BlockSelection::exact, Ties::all, 1.5, {12, 60}},
    {{2, 90, 2, 2, 8}, 4, 3, BlockSelection::reference, Ties::none, 1.5, {4, 12, 64}},
    {{1, 90, 1, 2, 8}, 4, 4, BlockSelection::reference, Ties::all, 1.5, {12}},
    {{1, 600, 1, 16, 64}, 16, 4, BlockSelection::exact, Ties::none, 1.5, {16, 32, 304}},
    {{2, 600, 1, 3, 128}, 16, 16, BlockSelection::exact, Ties::pairs, 1.5, {32, 512}},
    {{1, 600, 1, 2, 64}, 16, 16, BlockSelection::reference, Ties::none, 1.5, {48, 64}}};

/// Too long for the slow backends: every number of tiles of the kernel that keeps all scores in registers, with its
/// group sizes, also with sums that get too large, and more blocks than it can keep.
inline const std::vector<SelectBlocksCase> kLongSelectBlocksCases = {
    {{1, 2500, 1, 16, 64}, 16, 16},
    {{2, 2100, 2, 2, 64}, 16, 16, BlockSelection::reference},
    {{1, 6200, 1, 5, 64}, 16, 16, BlockSelection::exact, Ties::none, 12.0},
    {{1, 2400, 1, 32, 64}, 16, 40},
    {{1, 8192, 1, 3, 64}, 16, 16},
    {{1, 8192, 1, 2, 64}, 16, 16, BlockSelection::exact, Ties::pairs},
    {{1, 8192, 1, 1, 64}, 16, 16, BlockSelection::exact, Ties::none, 14.0},
    {{1, 8192, 1, 1, 64}, 16, 16, BlockSelection::reference, Ties::all},
    {{1, 4100, 1, 2, 128}, 16, 16},
    {{1, 8300, 1, 2, 64}, 16, 16},
    {{2, 2500, 1, 16, 64}, 16, 16, BlockSelection::exact, Ties::none, 1.5, {16, 48, 1040, 2480}},
    {{1, 8192, 2, 3, 64}, 16, 16, BlockSelection::exact, Ties::none, 14.0, {512, 528, 8176}},
    {{1, 4100, 1, 2, 128}, 16, 16, BlockSelection::exact, Ties::none, 1.5, {2048, 4080}},
    {{1, 8300, 1, 2, 64}, 16, 16, BlockSelection::reference, Ties::none, 1.5, {48, 4112}},
    // Steps of 32, 16, 8 and 4 tokens, whose tokens are chosen for four at a time: sequences that end within a step and
    // within four tokens, several heads, more chosen blocks than lanes, tokens with many equal candidates.
    {{2, 5003, 2, 1, 64}, 16, 16},
    {{1, 8191, 1, 1, 64}, 16, 33},
    {{1, 4099, 3, 1, 64}, 16, 34},
    {{1, 8190, 1, 1, 64}, 32, 16, BlockSelection::reference},
    {{1, 8189, 1, 1, 64}, 64, 65, BlockSelection::reference},
    {{2, 2049, 1, 1, 64}, 64, 16, BlockSelection::exact, Ties::pairs},
    {{1, 3001, 2, 1, 64}, 16, 16, BlockSelection::exact, Ties::all},
    {{2, 5005, 2, 2, 64}, 16, 16},
    {{1, 3021, 1, 2, 64}, 32, 40},
    {{1, 8191, 1, 2, 64}, 16, 16, BlockSelection::exact, Ties::none, 14.0},
    {{2, 3007, 2, 4, 64}, 16, 16},
    {{1, 8192, 1, 4, 64}, 16, 16, BlockSelection::reference, Ties::none, 14.0},
    {{2, 3003, 2, 8, 64}, 16, 16},
    {{1, 6007, 1, 7, 64}, 16, 16, BlockSelection::reference},
    {{2, 3000, 2, 1, 64}, 16, 16, BlockSelection::exact, Ties::none, 1.5, {16, 48, 1040, 2480}},
    {{1, 8185, 2, 1, 64}, 16, 16, BlockSelection::reference, Ties::none, 14.0, {512, 528, 8176}},
    {{1, 4090, 2, 4, 64}, 16, 16, BlockSelection::exact, Ties::none, 1.5, {16, 2064, 4080}},
    // More than 512 blocks: several groups, sums that get too large, and documents that begin between the tokens of two
    // teams, or are longer than 512 blocks.
    {{1, 8208, 1, 2, 64}, 16, 16},
    {{2, 8800, 1, 1, 64}, 16, 16, BlockSelection::reference},
    {{1, 8999, 2, 2, 64}, 16, 33, BlockSelection::exact, Ties::pairs},
    {{1, 10001, 1, 3, 64}, 16, 16, BlockSelection::exact, Ties::none, 12.0},
    {{1, 9606, 1, 5, 64}, 16, 16},
    {{1, 10016, 1, 3, 64}, 16, 16, BlockSelection::exact, Ties::none, 1.5, {8192, 8208, 8224, 8256, 9008}},
    {{1, 10016, 2, 2, 64}, 16, 16, BlockSelection::reference, Ties::none, 1.5, {320, 9984}},
    // Heads of 128 in groups of more than 4, on Hopper two teams up to 512 blocks: the same.
    {{1, 8300, 1, 5, 128}, 16, 16, BlockSelection::exact, Ties::none, 10.0},
    {{2, 2501, 1, 16, 128}, 16, 16},
    {{1, 2403, 1, 32, 128}, 16, 40, BlockSelection::reference},
    {{1, 6200, 1, 9, 128}, 16, 16, BlockSelection::exact, Ties::none, 1.5, {16, 48, 1040, 4128}},
    {{1, 4101, 2, 8, 128}, 16, 33, BlockSelection::reference, Ties::none, 10.0, {512, 528, 4080}},
    {{1, 3001, 1, 16, 128}, 32, 16, BlockSelection::exact, Ties::pairs}};

/// Several sequences, of which a test checks one. On Hopper, groups of 5 to 16 are scored with 64 columns per step for
/// the tokens with at most 256 blocks, if these are at least 528 CTAs (H200) of 32 tokens of a sequence and key/value
/// head. Here they are 564 to 645: cases of all three numbers of columns, then cases that end within a step of 64.
/// With query_size 10, sums get too large in some steps, not in all.
inline const std::vector<SelectBlocksCase> kManySequencesSelectBlocksCases = {
    {{5, 8300, 1, 9, 64}, 16, 16, BlockSelection::exact, Ties::none, 10.0},
    {{5, 8300, 1, 5, 64}, 16, 16, BlockSelection::exact, Ties::none, 10.0},
    {{5, 8300, 1, 10, 64}, 16, 16, BlockSelection::exact, Ties::none, 10.0, {16, 48, 1040, 4128}},
    {{5, 8300, 1, 6, 64}, 16, 16, BlockSelection::reference, Ties::none, 1.5, {16, 48, 1040, 4112}},
    {{5, 4209, 1, 16, 64}, 16, 16, BlockSelection::reference, Ties::none, 1.5, {16, 32}},
    {{5, 4210, 1, 8, 64}, 16, 33, BlockSelection::exact, Ties::none, 10.0, {16, 32}},
    {{3, 3003, 2, 16, 64}, 16, 16, BlockSelection::reference},
    {{3, 3003, 2, 7, 64}, 16, 16, BlockSelection::exact, Ties::pairs},
    {{6, 3001, 1, 8, 64}, 32, 16},
    {{5, 4099, 1, 16, 64}, 64, 16}};

struct SelectBlocksInputs {
  Values q, k_mean;

  explicit SelectBlocksInputs(const SelectBlocksCase& c)
      : q(random_values(c.dims.query_shape().count(), 1, c.ties == Ties::all ? 0.0 : c.query_size)),
        k_mean(random_values(c.dims.key_shape(c.blocks()).count(), 2)) {
    const std::int64_t row = c.dims.HK * c.dims.D;
    if (c.ties == Ties::pairs)
      for (std::int64_t b = 0; b < c.dims.B; ++b)
        for (std::int64_t n = 1; n < c.blocks(); n += 2)
          std::copy_n(&k_mean[(b * c.blocks() + n - 1) * row], row, &k_mean[(b * c.blocks() + n) * row]);
  }
};

/// The chosen indices [B, T, HK, c.slots()].
inline std::vector<std::int32_t> run_select_blocks(OpRunner& run, const SelectBlocksCase& c,
                                                   const SelectBlocksInputs& in) {
  const AttentionDims& d = c.dims;
  const Tensor indices = run.i32_output({d.B, d.T, d.HK, c.slots()});
  select_blocks(run.stream(), {.indices = indices,
                               .q = run.act_input(in.q, d.query_shape()),
                               .k_mean = run.act_input(in.k_mean, d.key_shape(c.blocks())),
                               .documents = document_bounds(run, d, c.begins),
                               .scale = d.scale(),
                               .block_size = c.block_size,
                               .block_counts = c.block_counts,
                               .mode = c.mode});
  return run.read_i32(indices);
}

/// The same for a case without documents, with queries in reverse order at given positions, and with more block means
/// than the sequence needs. The unused means are NaN: they must not be read.
inline std::vector<std::int32_t> run_select_blocks_at_positions(OpRunner& run, const SelectBlocksCase& c,
                                                                const SelectBlocksInputs& in) {
  constexpr std::int64_t kSpare = 3;
  const AttentionDims& d = c.dims;
  const Tensor indices = run.i32_output({d.B, d.T, d.HK, c.slots()});
  select_blocks(run.stream(), {.indices = indices,
                               .q = run.act_input(reversed_tokens(in.q, d.B, d.T), d.query_shape()),
                               .k_mean = run.act_input(padded_cache(in.k_mean, d.B, kSpare, d.HK * d.D),
                                                       d.key_shape(c.blocks() + kSpare)),
                               .positions = run.i32_input(descending_positions(d.B, d.T), {d.B, d.T}),
                               .scale = d.scale(),
                               .block_size = c.block_size,
                               .block_counts = c.block_counts,
                               .mode = c.mode});
  return reversed_tokens(run.read_i32(indices), d.B, d.T);
}

}  // namespace ssa::test
