#include "ssa/data/batch_plan.h"

#include <algorithm>
#include <set>

#include "ssa/base/error.h"
#include "support/catch.h"

using namespace ssa;

namespace {

/// Rows of one epoch of one dataset.
std::vector<RowRef> rows_of(std::int64_t epoch, const std::vector<std::int64_t>& rows) {
  std::vector<RowRef> all;
  for (const std::int64_t row : rows) all.push_back({0, epoch, row});
  return all;
}

BatchPlan plan_of(std::int64_t rows, std::int64_t batch, std::vector<RowRange> skipped = {}) {
  return BatchPlan({.sources = {{rows}}, .global_rows = batch, .micro_rows = 1, .ranks = 1, .skip_ranges = skipped});
}

}  // namespace

TEST_CASE("batch plan: a run that continues with another batch size uses every row of an epoch at most once") {
  DataPosition position;
  std::set<std::pair<std::int64_t, std::int64_t>> used;
  std::pair<std::int64_t, std::int64_t> last{0, -1};
  for (const std::int64_t batch_rows : {4, 6, 1, 5, 7}) {
    const BatchPlan plan = plan_of(23, batch_rows);
    for (int i = 0; i < 7; ++i) {
      const GlobalBatch batch = plan.batch_at(position);
      REQUIRE(std::ssize(batch.rows) == batch_rows);
      for (const auto& [source, epoch, row] : batch.rows) {
        CHECK(source == 0);
        CHECK(used.emplace(epoch, row).second);
        CHECK(std::pair(epoch, row) > last);
        // The next row follows, or the epoch has too few rows left.
        if (epoch == last.first) CHECK(row == last.second + 1);
        if (epoch > last.first) CHECK(last.second + batch_rows >= 23);
        last = {epoch, row};
      }
      position = batch.next;
    }
  }
}

TEST_CASE("batch plan: a schedule of the batch size") {
  const BatchSizes sizes({{0, 2}, {3, 4}, {10, 8}});
  std::int64_t rows = 0;
  for (std::int64_t step = 0; step < 20; ++step) {
    CHECK(sizes.rows_before(step) == rows);
    CHECK(sizes.rows_at(step) == (step < 3 ? 2 : step < 10 ? 4 : 8));
    for (const std::int64_t more : {0, 1, 7, 8, 33, 100}) {
      std::int64_t steps = 0;
      while (sizes.rows_before(step + steps + 1) - rows <= more) ++steps;
      CAPTURE(step, more);
      CHECK(sizes.steps_within(more, step) == steps);
    }
    rows += sizes.rows_at(step);
  }
  CHECK(sizes.largest() == 8);
  CHECK_THROWS_AS(BatchSizes({{1, 2}}), Error);
  CHECK_THROWS_AS(BatchSizes({{0, 2}, {0, 4}}), Error);

  // The rows of one epoch follow each other, and what is too few for a batch at its end is dropped.
  for (const std::int64_t ranks : {1, 2}) {
    const BatchPlan plan({.sources = {{21}}, .global_rows = sizes, .micro_rows = 1, .ranks = ranks});
    DataPosition position;
    std::vector<std::int64_t> first;
    for (std::int64_t step = 0; step < 11; ++step) {
      const GlobalBatch batch = plan.batch_at(position, step);
      REQUIRE(std::ssize(batch.rows) == sizes.rows_at(step));
      CHECK(plan.micro_batches(step) * ranks == sizes.rows_at(step));
      first.push_back(batch.numbers.first);
      CHECK(batch.numbers.last == batch.numbers.first + sizes.rows_at(step) - 1);
      position = batch.next;
    }
    CHECK(first == std::vector<std::int64_t>{0, 2, 4, 6, 10, 14, 21, 25, 29, 33, 42});
    CHECK(plan.batches_until(1, {}) == 6);
    CHECK(plan.batches_until(2, {}) == 10);
    CHECK(plan.batches_until(3, {}) == 12);
    CHECK(plan.batches_until(2, {1, 4}, 7) == 3);
    CHECK(plan.epochs_at({1, 8}, 6) == 1 + 8.0 / 20);
  }
  const BatchPlan mixed(
      {.sources = {{21, 1}, {40, 3}}, .mixed = true, .global_rows = sizes, .micro_rows = 2, .ranks = 1});
  CHECK(mixed.batches_until(1, {}) == 10 + 3);  // 34 rows in ten steps, then 8 each
}

TEST_CASE("batch plan: skipped rows are in no batch, and the rows after them follow") {
  const BatchPlan plan = plan_of(10, 4, {{13, 14}, {2, 3}, {3, 4}});
  GlobalBatch batch = plan.batch_at({});
  CHECK(batch.rows == rows_of(0, {0, 1, 5, 6}));
  CHECK(batch.next == DataPosition{0, 7});
  batch = plan.batch_at(batch.next);  // 3 rows are left of epoch 0
  CHECK(batch.rows == rows_of(1, {0, 1, 2, 5}));
  CHECK(plan.batch_at({2, 0}).rows == rows_of(2, {0, 1, 2, 3}));
  // A whole epoch and the begin of the next one.
  batch = plan_of(10, 4, {{10, 20}}).batch_at({0, 8});
  CHECK(batch.rows == rows_of(2, {1, 2, 3, 4}));
  batch = plan_of(10, 4, {{0, std::int64_t{1} << 53}}).batch_at({0, 0});
  CHECK(batch.numbers.first > std::int64_t{1} << 53);
}

TEST_CASE("batch plan: the number of batches that are left") {
  const BatchPlan plan = plan_of(23, 4);
  CHECK(plan.batches_until(1, {}) == 5);
  CHECK(plan.batches_until(1.5, {}) == 8);  // ceil(7.5)
  CHECK(plan.batches_until(3, {1, 8}) == 8);
  CHECK(plan.batches_until(3, {1, 20}) == 5);  // 3 rows are dropped
  CHECK(plan.batches_until(3, {3, 0}) == 0);
  CHECK(plan.batches_until(1, {0, 10}) == 3);  // after a change of the batch size
  CHECK(plan_of(23, 4, {{4, 8}}).batches_until(2, {}) == 9);
  // What batch_at gives is as many.
  for (const double epochs : {0.3, 1.0, 2.4}) {
    const BatchPlan skipping = plan_of(23, 4, {{4, 8}, {30, 31}});
    DataPosition position;
    std::int64_t batches = 0;
    for (GlobalBatch batch = skipping.batch_at(position); skipping.epochs_at(batch.next) <= epochs + 0.2;
         batch = skipping.batch_at(position)) {
      position = batch.next;
      ++batches;
    }
    CHECK(std::abs(batches - skipping.batches_until(epochs, {})) <= 1);
  }
  CHECK(plan.epochs_at({1, 10}) == 1.5);
  CHECK(plan.epochs_at({0, 23}) == 1.0);
}
