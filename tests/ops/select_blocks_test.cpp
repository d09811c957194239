#include "ops/select_blocks_cases.h"

#include <limits>
#include <numeric>

#include "support/dense_attention.h"

using namespace ssa;
using namespace ssa::test;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// [B, T, HK, N]: the sum over a group's heads of the softmax over complete blocks; own block infinity, later ones and
/// those of other pieces -infinity.
Values importances(const SelectBlocksCase& c, const SelectBlocksInputs& in) {
  const AttentionDims& d = c.dims;
  const std::int64_t N = c.blocks();
  const DenseAttention dense = dense_attention(d, N, in.q, in.k_mean, in.k_mean, [&](auto b, auto t, auto, auto n) {
    return piece_begin(c.begins, b, t) <= n * c.block_size && (n + 1) * c.block_size <= t + 1;
  });
  Values importance(static_cast<std::size_t>(d.B * d.T * d.HK * N), 0.0);
  for (std::int64_t row = 0; row < d.B * d.T * d.HQ(); ++row)
    for (std::int64_t n = 0; n < N; ++n) importance[row / d.G * N + n] += dense.probability[row * N + n];
  for (std::int64_t row = 0; row < d.B * d.T * d.HK; ++row)
    for (std::int64_t n = 0; n < N; ++n) {
      const std::int64_t t = row / d.HK % d.T, own = t / c.block_size;
      if (n * c.block_size < piece_begin(c.begins, row / d.HK / d.T, t)) importance[row * N + n] = -kInfinity;
      if (n >= own) importance[row * N + n] = n == own ? kInfinity : -kInfinity;
    }
  return importance;
}

/// Mask of the `count` highest values; the stable sort lets the lower index win a tie.
std::vector<bool> most_important(const Values& importance, std::int64_t count) {
  std::vector<std::int64_t> order(importance.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return importance[a] > importance[b]; });
  std::vector<bool> mask(importance.size(), false);
  for (std::int64_t i = 0; i < std::min(count, static_cast<std::int64_t>(order.size())); ++i) mask[order[i]] = true;
  return mask;
}

/// Mask of the blocks that one token selects, from the importance of all N blocks, by masks as in the definition. The
/// blocks of its piece begin at `first`.
std::vector<bool> choose(const SelectBlocksCase& c, std::int64_t first, std::int64_t own, const Values& importance) {
  const auto N = static_cast<std::int64_t>(importance.size());
  std::vector<bool> chosen = most_important(importance, c.block_counts);
  if (c.mode == BlockSelection::reference && c.block_counts > c.block_size / 2 && own - first >= c.block_size) {
    Values earlier = importance, later = importance;
    const auto is_earlier = [&](std::int64_t n) { return n < first + (own - first) / c.block_size * c.block_size; };
    for (std::int64_t n = 0; n < N; ++n) (is_earlier(n) ? later : earlier)[n] = -kInfinity;
    const std::vector<bool> from_earlier = most_important(earlier, c.block_size / 2),
                            from_later = most_important(later, c.block_size / 2);
    for (std::int64_t n = 0; n < N; ++n) chosen[n] = is_earlier(n) ? from_earlier[n] : from_later[n];
  }
  for (std::int64_t n = 0; n < N; ++n) chosen[n] = chosen[n] && first <= n && n <= own;
  return chosen;
}

/// Calls visit(first block of the piece, own block, importance of its N blocks, chosen slots) for every (sequence,
/// token, key/value head).
template <class Visit>
void for_each_choice(const SelectBlocksCase& c, const Values& importance, const std::vector<std::int32_t>& indices,
                     Visit&& visit) {
  const std::int64_t N = c.blocks(), slots = c.slots();
  REQUIRE(static_cast<std::int64_t>(indices.size()) == c.dims.B * c.dims.T * c.dims.HK * slots);
  for (std::int64_t row = 0; row < c.dims.B * c.dims.T * c.dims.HK; ++row)
    visit(piece_begin(c.begins, row / c.dims.HK / c.dims.T, row / c.dims.HK % c.dims.T) / c.block_size,
          row / c.dims.HK % c.dims.T / c.block_size,
          Values(importance.begin() + row * N, importance.begin() + (row + 1) * N),
          std::vector<std::int32_t>(indices.begin() + row * slots, indices.begin() + (row + 1) * slots));
}

/// The marked blocks, ascending, then -1.
std::vector<std::int32_t> slots_of(const std::vector<bool>& chosen, std::int64_t slots) {
  std::vector<std::int32_t> result;
  for (std::size_t n = 0; n < chosen.size(); ++n)
    if (chosen[n]) result.push_back(static_cast<std::int32_t>(n));
  REQUIRE(static_cast<std::int64_t>(result.size()) <= slots);
  result.resize(static_cast<std::size_t>(slots), -1);
  return result;
}

/// Importance has the rounding errors of an f32 softmax: relative, those of the scores and their exponents, which grow
/// with the scores; 1e-6 for scores of about 1. Blocks whose importance differs by less than ten times as much may be
/// exchanged, and blocks whose importance is so small that a GPU's f32 has 0 for it.
double near_tie(const SelectBlocksCase& c) { return 1e-5 * std::max(1.0, c.query_size); }

/// Checks that the choice is the same except for exchanged near ties; also the order, the padding and the own block.
void check_choice(const SelectBlocksCase& c, const SelectBlocksInputs& in, const std::vector<std::int32_t>& indices) {
  std::int64_t wrong = 0;
  const double smallest = static_cast<double>(std::numeric_limits<float>::min()) * static_cast<double>(c.dims.G);
  double largest_gap = 0;  // of importance, relative, between a block that is missing and one that was chosen
  for_each_choice(c, importances(c, in), indices,
                  [&](std::int64_t first, std::int64_t own, const Values& importance, const auto& got) {
                    const std::vector<std::int32_t> want = slots_of(choose(c, first, own, importance), c.slots());
                    std::vector<bool> mask(importance.size(), false);
                    for (const std::int32_t n : got)
                      if (first <= n && n <= own) mask[n] = true;
                    // Equal only if `got` is ascending, without repetition, within [first, own], then -1.
                    bool good = slots_of(mask, c.slots()) == got && mask[own] &&
                                std::count(got.begin(), got.end(), -1) == std::count(want.begin(), want.end(), -1);
                    std::vector<std::int32_t> added, missing;
                    std::set_difference(got.begin(), got.end(), want.begin(), want.end(), std::back_inserter(added));
                    std::set_difference(want.begin(), want.end(), got.begin(), got.end(), std::back_inserter(missing));
                    for (std::size_t i = 0; i < added.size(); ++i)
                      for (const std::int32_t m : missing)
                        if (importance[m] >= smallest)
                          largest_gap = std::max(largest_gap, (importance[m] - importance[added[i]]) / importance[m]);
                    wrong += !good;
                  });
  CHECK(wrong == 0);
  CHECK(largest_gap <= near_tie(c));
}

/// Values that bf16 has, so that both backends score the same ones.
SelectBlocksInputs inputs_in_bf16(const SelectBlocksCase& c) {
  SelectBlocksInputs in(c);
  for (Values* values : {&in.q, &in.k_mean})
    for (double& x : *values) x = static_cast<float>(bfloat16(static_cast<float>(x)));
  return in;
}

/// Inputs of many sequences. They are drawn for one, which is faster: sequence b has them from token 2 b and block 2 b
/// on, then the first ones.
SelectBlocksInputs rotated_inputs(const SelectBlocksCase& c) {
  SelectBlocksCase one = c;
  one.dims.B = 1;
  const SelectBlocksInputs drawn = inputs_in_bf16(one);
  SelectBlocksInputs in = drawn;
  const auto add = [](Values& to, const Values& from, std::int64_t first) {
    std::rotate_copy(from.begin(), from.begin() + first % std::ssize(from), from.end(), std::back_inserter(to));
  };
  for (std::int64_t b = 1; b < c.dims.B; ++b) {
    add(in.q, drawn.q, 2 * b * c.dims.HQ() * c.dims.D);
    add(in.k_mean, drawn.k_mean, 2 * b * c.dims.HK * c.dims.D);
  }
  return in;
}

/// The part of values [B, ...] that belongs to sequence b.
template <class T>
std::vector<T> of_sequence(const std::vector<T>& values, std::int64_t B, std::int64_t b) {
  const std::int64_t each = std::ssize(values) / B;
  return {values.begin() + b * each, values.begin() + (b + 1) * each};
}

/// check_choice for sequence b only: the definition takes long.
void check_choice_of_sequence(const SelectBlocksCase& c, const SelectBlocksInputs& in,
                              const std::vector<std::int32_t>& indices, std::int64_t b) {
  SelectBlocksCase one = c;
  one.dims.B = 1;
  one.begins.erase(one.begins.begin(), one.begins.begin() + std::min(b, std::ssize(one.begins)));
  SelectBlocksInputs of_one = in;
  of_one.q = of_sequence(in.q, c.dims.B, b);
  of_one.k_mean = of_sequence(in.k_mean, c.dims.B, b);
  check_choice(one, of_one, of_sequence(indices, c.dims.B, b));
}

}  // namespace

TEST_CASE("select_blocks in f64 chooses the blocks of the dense definition") {
  for (const SelectBlocksCase& c : kSelectBlocksCases) {
    INFO(c.to_string());
    const SelectBlocksInputs in(c);
    OpRunner run(Precision::exact);
    std::int64_t wrong = 0;
    for_each_choice(c, importances(c, in), run_select_blocks(run, c, in),
                    [&](std::int64_t first, std::int64_t own, const Values& importance, const auto& got) {
                      wrong += got != slots_of(choose(c, first, own, importance), c.slots());
                    });
    CHECK(wrong == 0);
  }
}

TEST_CASE("select_blocks breaks ties by the lower index") {
  const SelectBlocksCase c{{1, 36, 1, 2, 8}, 4, 4, BlockSelection::exact, Ties::all};
  OpRunner run(Precision::f32);
  const std::vector<std::int32_t> indices = run_select_blocks(run, c, SelectBlocksInputs(c));
  const std::vector<std::int32_t> token_4(indices.begin() + 4 * 4, indices.begin() + 5 * 4);
  const std::vector<std::int32_t> token_35(indices.begin() + 35 * 4, indices.end());
  CHECK(token_4 == std::vector<std::int32_t>{0, 1, -1, -1});
  CHECK(token_35 == std::vector<std::int32_t>{0, 1, 2, 8});
}

TEST_CASE("select_blocks in reference mode takes half of its blocks from the own chunk, half from earlier chunks") {
  // Chunks of 4 blocks. The last token has own block 9: earlier chunks have blocks 0 to 7, its own chunk 8 and 9.
  const SelectBlocksCase c{{1, 40, 1, 2, 8}, 4, 3, BlockSelection::reference, Ties::all};
  REQUIRE(c.slots() == 4);
  OpRunner run(Precision::f32);
  const std::vector<std::int32_t> indices = run_select_blocks(run, c, SelectBlocksInputs(c));
  const std::vector<std::int32_t> token_15(indices.begin() + 15 * 4, indices.begin() + 16 * 4);
  const std::vector<std::int32_t> token_16(indices.begin() + 16 * 4, indices.begin() + 17 * 4);
  const std::vector<std::int32_t> token_39(indices.begin() + 39 * 4, indices.end());
  CHECK(token_15 == std::vector<std::int32_t>{0, 1, 3, -1});  // in the first chunk: the block_counts most important
  CHECK(token_16 == std::vector<std::int32_t>{0, 1, 4, -1});
  CHECK(token_39 == std::vector<std::int32_t>{0, 1, 8, 9});
}

TEST_CASE("select_blocks in f32 agrees with f64 except for near ties") {
  for (const SelectBlocksCase& c : kSelectBlocksCases) {
    INFO(c.to_string());
    const SelectBlocksInputs in(c);
    OpRunner run(Precision::f32);
    check_choice(c, in, run_select_blocks(run, c, in));
  }
}

TEST_CASE("select_blocks at given positions agrees with select_blocks over the whole sequence") {
  for (const SelectBlocksCase& c : kSelectBlocksCases) {
    INFO(c.to_string());
    const SelectBlocksInputs in(c);
    OpRunner run(Precision::f32);
    if (!c.begins.empty()) continue;
    CHECK(run_select_blocks_at_positions(run, c, in) == run_select_blocks(run, c, in));
  }
}

TEST_CASE("select_blocks does not depend on later tokens") {
  for (const BlockSelection mode : {BlockSelection::exact, BlockSelection::reference}) {
    const SelectBlocksCase c{{2, 41, 2, 3, 8}, 4, 3, mode};
    const Values k = random_values(c.dims.key_shape(c.dims.T).count(), 7);
    SelectBlocksInputs in(c);
    in.k_mean = block_means(c.dims, c.block_size, k);
    OpRunner run(Precision::f32);
    const auto select = [&](const SelectBlocksInputs& at) {
      const std::vector<std::int32_t> indices = run_select_blocks(run, c, at);
      return Values(indices.begin(), indices.end());
    };
    const Values before = select(in);
    bool changes = false;
    for (std::int64_t t = 0; t < c.dims.T; ++t) {
      SelectBlocksInputs changed = in;
      changed.q = with_changed_token(c.dims, in.q, t);
      changed.k_mean = block_means(c.dims, c.block_size, with_changed_token(c.dims, k, t));
      const Values after = select(changed);
      INFO("token " << t << " changes");
      CHECK(first_tokens(c.dims, after, t) == first_tokens(c.dims, before, t));
      changes = changes || after != before;
    }
    CHECK(changes);
  }
}

TEST_CASE("select_blocks with NaN scores returns valid indices") {
  const SelectBlocksCase c{{1, 40, 1, 2, 8}, 4, 3};
  SelectBlocksInputs in(c);
  in.q.assign(in.q.size(), std::nan(""));
  OpRunner run(Precision::f32);
  const std::vector<std::int32_t> indices = run_select_blocks(run, c, in);
  const std::vector<std::int32_t> last(indices.end() - 3, indices.end());
  CHECK(last == std::vector<std::int32_t>{0, 1, 9});
}

TEST_CASE("select_blocks validation names the wrong tensor or value") {
  OpRunner run(Precision::f32);
  SelectBlocks p{.indices = run.i32_output({1, 9, 2, 3}),
                 .q = run.act_output({1, 9, 4, 8}),
                 .k_mean = run.act_output({1, 3, 2, 8}),
                 .scale = 1,
                 .block_size = 4,
                 .block_counts = 3};
  CHECK_NOTHROW(validate(p));
  p.mode = BlockSelection::reference;
  CHECK_THROWS_WITH(validate(p), "select_blocks: indices is [1, 9, 2, 3], expected [1, 9, 2, 4]");
  p.block_size = 1;
  CHECK_THROWS_WITH(validate(p), "select_blocks: block_size 1 in reference mode, expected at least 2");
  p.mode = BlockSelection::exact;
  p.positions = run.i32_output({9, 1});
  CHECK_THROWS_WITH(validate(p), "select_blocks: positions is [9, 1], expected [1, 9]");
  p.positions = run.i32_output({1, 9});
  p.documents = {.begin = run.i32_output({1, 9}), .end = run.i32_output({1, 9})};
  CHECK_THROWS_WITH(validate(p), "select_blocks: both positions and documents, expected at most one of them");
  p.block_counts = 0;
  CHECK_THROWS_WITH(validate(p), "select_blocks: block_counts 0, expected at least 1");
}

TEST_CASE("select_blocks on CUDA agrees with the definition except for near ties") {
  if (skip_without_gpu()) return;
  std::vector<SelectBlocksCase> cases = kSelectBlocksCases;
  cases.insert(cases.end(), kLongSelectBlocksCases.begin(), kLongSelectBlocksCases.end());
  for (const SelectBlocksCase& c : cases) {
    if (!cuda_supports(c)) continue;
    INFO(c.to_string());
    const SelectBlocksInputs in = inputs_in_bf16(c);
    OpRunner cuda(Precision::cuda), again(Precision::cuda), exact(Precision::exact);
    const std::vector<std::int32_t> got = run_select_blocks(cuda, c, in);
    check_choice(c, in, got);
    CHECK(got == run_select_blocks(again, c, in));
    if (!c.begins.empty()) continue;
    const std::vector<std::int32_t> at_positions = run_select_blocks_at_positions(cuda, c, in);
    check_choice(c, in, at_positions);
    CHECK(at_positions == run_select_blocks_at_positions(again, c, in));
    if (c.ties != Ties::all) continue;
    CHECK(got == run_select_blocks(exact, c, in));
    CHECK(at_positions == got);
  }
}

TEST_CASE("select_blocks on CUDA over many sequences agrees with the definition except for near ties") {
  if (skip_without_gpu()) return;
  for (const SelectBlocksCase& c : kManySequencesSelectBlocksCases) {
    INFO(c.to_string());
    const SelectBlocksInputs in = rotated_inputs(c);
    OpRunner run(Precision::cuda);
    const std::vector<std::int32_t> got = run_select_blocks(run, c, in);
    check_choice_of_sequence(c, in, got, 1);
    CHECK(got == run_select_blocks(run, c, in));
  }
}

TEST_CASE("select_blocks on CUDA returns valid indices of NaN and infinite scores") {
  if (skip_without_gpu()) return;
  for (const BlockSelection mode : {BlockSelection::exact, BlockSelection::reference})
    for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity()})
      // With 25 sequences, steps have 64 columns: see kManySequencesSelectBlocksCases.
      for (const auto& [sequences, group, D] : std::vector<std::array<std::int64_t, 3>>{{1, 1, 64},
                                                                                        {1, 2, 64},
                                                                                        {1, 4, 64},
                                                                                        {1, 8, 64},
                                                                                        {1, 16, 64},
                                                                                        {1, 8, 128},
                                                                                        {1, 16, 128},
                                                                                        {25, 8, 64},
                                                                                        {25, 16, 64}}) {
        const SelectBlocksCase c{{sequences, 700, 1, group, D}, 16, 16, mode};
        INFO(c.to_string());
        SelectBlocksInputs in = rotated_inputs(c);
        for (std::size_t i = 0; i < in.q.size(); i += 37) in.q[i] = bad;
        OpRunner run(Precision::cuda);
        const Values no_importance(static_cast<std::size_t>(c.dims.B * c.dims.T * c.dims.HK * c.blocks()));
        for (const auto& select : {run_select_blocks, run_select_blocks_at_positions}) {
          std::int64_t wrong = 0;
          for_each_choice(c, no_importance, select(run, c, in),
                          [&](std::int64_t first, std::int64_t own, const Values& importance, const auto& got) {
                            std::vector<bool> mask(importance.size(), false);
                            for (const std::int32_t n : got)
                              if (0 <= n && n <= own) mask[static_cast<std::size_t>(n)] = true;
                            const std::vector<bool> as_many = choose(c, first, own, importance);
                            wrong += slots_of(mask, c.slots()) != got || !mask[static_cast<std::size_t>(own)] ||
                                     std::count(mask.begin(), mask.end(), true) !=
                                         std::count(as_many.begin(), as_many.end(), true);
                          });
          CHECK(wrong == 0);
        }
      }
}
