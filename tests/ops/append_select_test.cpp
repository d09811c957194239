#include "kernels/attention/decode/append_select.h"

#include "ops/append_qkv_cases.h"
#include "support/catch.h"

using namespace ssa;
using namespace ssa::test;

namespace {

struct AppendSelectCase {
  AppendQkvCase append;
  std::int64_t block_counts;
  BlockSelection mode = BlockSelection::exact;
};

/// Small ones for the CPU; then those of the kernel of one token per sequence: the first token, the last token of a
/// block and the one after it, in the first part of the cache and in later ones, both head sizes and several groups.
const std::vector<AppendSelectCase> kCases = {{{2, 9, 4, 2, 6, 4, {0, 7}}, 2},
                                              {{1, 90, 3, 1, 8, 4, {43, 44, 45, 46, 47}}, 5},
                                              {{1, 90, 2, 2, 8, 4, {47}}, 4, BlockSelection::reference},
                                              {{2, 20, 2, 2, 64, 16, {0, 15}}, 4},
                                              {{3, 600, 32, 2, 64, 16, {511, 512, 599}}, 16},
                                              {{4, 700, 3, 1, 64, 16, {14, 31, 32, 695}, true, false}, 4},
                                              {{2, 1100, 16, 2, 128, 32, {1023, 1022}}, 8},
                                              {{2, 5000, 16, 1, 64, 16, {4095, 4998}}, 16},
                                              {{1, 1300, 32, 1, 64, 64, {1279}}, 40},
                                              {{1, 900, 16, 1, 64, 16, {830, 831, 832}}, 16},
                                              {{1, 900, 16, 1, 64, 16, {895}}, 16, BlockSelection::reference}};

/// The outputs of append_select, or of append_qkv and select_blocks.
Outputs run_case(OpRunner& run, const AppendSelectCase& c, bool together) {
  const AppendQkvInputs in(c.append);
  const std::int64_t T = c.append.T(), slots = selected_slots(c.append.block_size, c.block_counts, c.mode);
  const Tensor weights = run.act_input(random_values(1000, 9), {1000});
  const AppendSelect p{.append = append_qkv_of(run, c.append, in, weights),
                       .indices = run.i32_output({c.append.B, T, c.append.HK, slots}),
                       .scale = 0.125f,
                       .block_counts = c.block_counts,
                       .mode = c.mode};
  Stream measure = Stream::measuring(run.stream().kind());
  append_select(measure, p);
  run.stream().reserve_scratch(measure.scratch_bytes());
  if (together) {
    append_select(run.stream(), p);
  } else {
    append_qkv(run.stream(), p.append);
    select_blocks(run.stream(), p.select());
  }
  Outputs out = outputs_of(run, p.append);
  const std::vector<std::int32_t> indices = run.read_i32(p.indices);
  out.push_back({"indices", Values(indices.begin(), indices.end())});
  return out;
}

void check_equal(OpRunner& run, const AppendSelectCase& c) {
  INFO(c.append.to_string() << " block_counts " << c.block_counts);
  const Outputs got = run_case(run, c, true), want = run_case(run, c, false);
  REQUIRE(got.size() == want.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    INFO(got[i].name);
    CHECK((got[i].values == want[i].values));
  }
}

}  // namespace

TEST_CASE("append_select is append_qkv and select_blocks") {
  for (const AppendSelectCase& c : kCases) {
    OpRunner run(Precision::f32);
    check_equal(run, c);
  }
}

TEST_CASE("append_select needs the means of blocks") {
  OpRunner run(Precision::f32);
  const AppendQkvCase c{1, 9, 4, 2, 8, 4, {5}, false};
  const AppendSelect p{.append = append_qkv_of(run, c, AppendQkvInputs(c), {}),
                       .indices = run.i32_output({1, 1, 2, 3}),
                       .scale = 1,
                       .block_counts = 3};
  CHECK_THROWS_WITH(validate(p), "append_select: no k_mean, from whose scores blocks are chosen");
}

TEST_CASE("append_select on CUDA gives the bits of append_qkv and select_blocks on CUDA") {
  if (skip_without_gpu()) return;
  for (const AppendSelectCase& c : kCases) {
    if (c.append.D != 64 && c.append.D != 128) continue;
    OpRunner run(Precision::cuda);
    check_equal(run, c);
  }
}
