#include "ssa/data/mix.h"

#include <cmath>
#include <numeric>
#include <set>

#include "ssa/base/error.h"
#include "ssa/base/random.h"
#include "ssa/data/batch_plan.h"
#include "support/catch.h"

using namespace ssa;

namespace {

/// The batches of a run of three sources of 7, 1000 and 20000 rows.
BatchPlan mix_plan(std::int64_t batch, std::int64_t ranks, std::vector<RowRange> skipped = {},
                   std::vector<double> weights = {0.001, 0.299, 0.7}) {
  return BatchPlan({.sources = {{7, weights[0]}, {1000, weights[1]}, {20000, weights[2]}},
                    .mixed = true,
                    .global_rows = batch,
                    .micro_rows = 1,
                    .ranks = ranks,
                    .skip_ranges = skipped});
}

/// The first rows of the run, and their numbers.
std::vector<RowRef> rows_of(const BatchPlan& plan, std::int64_t count, DataPosition& position) {
  std::vector<RowRef> rows;
  while (std::ssize(rows) < count) {
    const GlobalBatch batch = plan.batch_at(position);
    // As the ranks run: slot after slot.
    for (std::int64_t micro = 0; micro < plan.micro_batches(); ++micro)
      for (std::int64_t rank = 0; rank < plan.global_rows() / plan.micro_batches(); ++rank)
        for (const RowRef& row : plan.micro_batch(batch, micro, rank)) rows.push_back(row);
    position = batch.next;
  }
  return rows;
}

std::vector<RowRef> rows_of(const BatchPlan& plan, std::int64_t count) {
  DataPosition position;
  return rows_of(plan, count, position);
}

}  // namespace

TEST_CASE("mix: after any number of rows, every source is within a row of its share") {
  std::vector<std::vector<double>> mixes = {{0.001, 0.299, 0.7}, {1, 1, 1}, {1e-6, 1e6}, {3}, {0.5, 0.5}};
  // Always taking the source that is most rows behind leaves one of eight sources more than a row behind.
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    std::vector<double>& weights = mixes.emplace_back();
    for (std::uint64_t i = 0; i < 2 + seed % 19; ++i)
      weights.push_back(std::pow(random_uniform(seed, RandomPurpose::shuffle, 0, i), 1 + seed % 4) + 1e-6);
  }
  for (std::size_t m = 0; m < mixes.size(); ++m) {
    const std::vector<double>& weights = mixes[m];
    const Mix mix(weights);
    const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
    const auto sources = static_cast<double>(weights.size());
    const double bound = sources > 1 ? 1 - 1 / (2 * sources - 2) : 0;
    std::vector<std::int64_t> given(weights.size());
    double worst = 0;
    for (std::int64_t n = 1; n <= (m == 0 ? 100000 : 2000); ++n) {
      ++given[mix.next(given)];
      for (std::size_t i = 0; i < weights.size(); ++i) {
        const double share = weights[i] / sum * static_cast<double>(n);
        worst = std::max(worst, std::abs(static_cast<double>(given[i]) - share));
      }
      if (m == 0 && (n == 10 || n == 1000 || n == 100000)) {
        CAPTURE(n, given);
        CHECK(std::abs(given[0] - 0.001 * n) < 1);
        CHECK(std::abs(given[1] - 0.299 * n) < 1);
        CHECK(std::abs(given[2] - 0.7 * n) < 1);
      }
    }
    CAPTURE(m, weights);
    CHECK(worst <= bound + 1e-9);
  }
  CHECK(Mix(std::vector<double>{1, 3}).share(1) == 0.75);
  CHECK_THROWS_AS(Mix(std::vector<double>{1, 0}), Error);
}

TEST_CASE("mix: the shares stay exact far into a run") {
  const std::vector<double> weights = {0.1, 0.2, 0.7};
  const Mix mix(weights);
  constexpr std::int64_t kRows = 1'000'000'000'000;
  std::vector<std::int64_t> given = {kRows / 10, kRows / 5, kRows / 10 * 7};
  for (std::int64_t n = 1; n <= 1000; ++n) {
    ++given[mix.next(given)];
    for (std::size_t i = 0; i < 3; ++i)
      REQUIRE(std::abs(static_cast<double>(given[i] - kRows / 10 * std::llround(weights[i] * 10)) -
                       weights[i] * static_cast<double>(n)) < 1);
  }
}

TEST_CASE("batch plan: a mix has the same rows for every batch size, number of ranks and resume") {
  const std::vector<RowRef> expected = rows_of(mix_plan(1, 1), 100002);
  std::vector<std::set<std::pair<std::int64_t, std::int64_t>>> used(3);
  std::vector<RowRef> last(3, RowRef{0, 0, -1});
  for (const RowRef& row : expected) {
    const auto source = static_cast<std::size_t>(row.source);
    REQUIRE(used[source].emplace(row.epoch, row.row).second);
    // The next row of its source, or the first one of the next epoch.
    const std::int64_t rows = source == 0 ? 7 : source == 1 ? 1000 : 20000;
    REQUIRE(row.epoch * rows + row.row == last[source].epoch * rows + last[source].row + 1);
    last[source] = row;
  }
  CHECK(last[0].epoch == 14);
  CHECK(last[1].epoch == 29);
  CHECK(last[2].epoch == 3);
  for (const std::int64_t ranks : {1, 2, 3}) {
    std::vector<RowRef> rows = rows_of(mix_plan(6, ranks), 100002);
    CHECK((rows == expected));
    // Another batch size after 5004 rows, 30 and then 12 per step.
    DataPosition position;
    rows = rows_of(mix_plan(12, ranks), 5004, position);
    for (const auto& [batch, count] : {std::pair{30, 30000}, {12, 64998}}) {
      const std::vector<RowRef> more = rows_of(mix_plan(batch, ranks), count, position);
      rows.insert(rows.end(), more.begin(), more.end());
    }
    rows.resize(expected.size());
    CHECK((rows == expected));
  }
}

TEST_CASE("batch plan: a mix without its skipped rows is the same mix") {
  const std::vector<RowRef> all = rows_of(mix_plan(1, 1), 200);
  const BatchPlan plan = mix_plan(4, 2, {{100, 102}, {3, 5}, {5, 7}});
  std::vector<RowRef> expected;
  for (std::size_t i = 0; i < all.size(); ++i)
    if (!(3 <= i && i <= 7) && !(100 <= i && i <= 102)) expected.push_back(all[i]);
  CHECK((rows_of(plan, 192) == expected));
  const GlobalBatch batch = plan.batch_at({});
  CHECK(batch.numbers == RowRange{0, 8});
  CHECK(batch.next.row == 9);
  CHECK(plan.batch_at(batch.next).numbers == RowRange{9, 12});
  CHECK_THROWS_AS(mix_plan(4, 2, {{0, std::int64_t{1} << 53}}), UsageError);
}

TEST_CASE("batch plan: the length and the epochs of a mix") {
  const BatchPlan plan = mix_plan(4, 1);
  CHECK(plan.rows_per_epoch() == 21007);
  CHECK(plan.dropped_rows() == 0);
  CHECK(plan.batches_until(1, {}) == 21007 / 4);
  CHECK(plan.batches_until(2, {}) == 42014 / 4);
  DataPosition position;
  rows_of(plan, 10000, position);
  CHECK(plan.batches_until(1, position) == 11007 / 4);
  CHECK(mix_plan(4, 1, {{0, 9}, {20000, 20009}}).batches_until(1, position) == 10997 / 4);
  CHECK(plan.epochs_at(position) == 10000.0 / 21007);
  CHECK(std::abs(plan.source_epochs_at(position, 0) - 10.0 / 7) < 1.0 / 7);
  CHECK(std::abs(plan.source_epochs_at(position, 1) - 2.99) < 1e-3);
  CHECK(std::abs(plan.source_epochs_at(position, 2) - 0.35) < 1e-4);
  CHECK(plan.source_epochs_at({}, 2) == 0);
}
