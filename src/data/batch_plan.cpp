#include "ssa/data/batch_plan.h"

#include <algorithm>
#include <cmath>

#include "ssa/base/error.h"

namespace ssa {
namespace {

std::vector<RowRange> merged(std::vector<RowRange> ranges) {
  std::ranges::sort(ranges, {}, &RowRange::first);
  std::vector<RowRange> result;
  for (const RowRange& range : ranges)
    if (!result.empty() && range.first <= result.back().last + 1)
      result.back().last = std::max(result.back().last, range.last);
    else
      result.push_back(range);
  return result;
}

}  // namespace

BatchPlan::BatchPlan(const Options& options) : o_(options) {
  o_.skip_ranges = merged(o_.skip_ranges);
  if (o_.micro_rows < 1 || o_.ranks < 1 || o_.global_rows < 1 || o_.global_rows % (o_.micro_rows * o_.ranks) != 0)
    fail_usage("global batch of ", o_.global_rows, " rows, expected a multiple of ", o_.ranks, " ranks x ",
               o_.micro_rows, " rows per micro-batch");
  if (batches_per_epoch() < 1)
    fail_usage("zero steps in an epoch: the data makes ", o_.rows_per_epoch,
               " rows, expected at least one global batch of ", o_.global_rows);
}

std::int64_t BatchPlan::usable_rows(std::int64_t epoch, std::int64_t begin, std::int64_t end) const {
  const std::int64_t offset = epoch * o_.rows_per_epoch;
  std::int64_t rows = std::max<std::int64_t>(0, end - begin);
  for (const RowRange& skipped : o_.skip_ranges) {
    const std::int64_t first = std::max(skipped.first, offset + begin), last = std::min(skipped.last, offset + end - 1);
    rows -= std::max<std::int64_t>(0, last - first + 1);
  }
  return rows;
}

GlobalBatch BatchPlan::batch_at(DataPosition position) const {
  while (usable_rows(position.epoch, position.row, o_.rows_per_epoch) < o_.global_rows) {
    position = {position.epoch + 1, 0};
    // A range over many epochs is passed at once.
    for (const RowRange& skipped : o_.skip_ranges)
      if (skipped.first <= position.epoch * o_.rows_per_epoch)
        position.epoch = std::max(position.epoch, (skipped.last + 1) / o_.rows_per_epoch);
  }
  GlobalBatch batch{.epoch = position.epoch, .rows = {}, .next = position};
  const std::int64_t offset = position.epoch * o_.rows_per_epoch;
  auto skipped = o_.skip_ranges.begin();
  std::int64_t row = position.row;
  while (static_cast<std::int64_t>(batch.rows.size()) < o_.global_rows) {
    while (skipped != o_.skip_ranges.end() && skipped->last < offset + row) ++skipped;
    if (skipped != o_.skip_ranges.end() && skipped->first <= offset + row)
      row = skipped->last + 1 - offset;
    else
      batch.rows.push_back(row++);
  }
  batch.next.row = row;
  return batch;
}

std::int64_t BatchPlan::batches_until(double epochs, DataPosition position) const {
  // Counted without skipped rows first, so that skipping leaves the last row of the run where it is.
  const auto end = static_cast<std::int64_t>(std::ceil(epochs * static_cast<double>(batches_per_epoch())));
  std::int64_t batches = 0;
  for (; position.epoch * batches_per_epoch() < end; position = {position.epoch + 1, 0}) {
    const std::int64_t in_epoch = std::min(batches_per_epoch(), end - position.epoch * batches_per_epoch());
    const std::int64_t last_row = in_epoch == batches_per_epoch() ? o_.rows_per_epoch : in_epoch * o_.global_rows;
    batches += usable_rows(position.epoch, position.row, last_row) / o_.global_rows;
  }
  return batches;
}

double BatchPlan::epochs_at(DataPosition position) const {
  const std::int64_t rows = batches_per_epoch() * o_.global_rows;
  return static_cast<double>(position.epoch * rows + std::min(position.row, rows)) / static_cast<double>(rows);
}

}  // namespace ssa
