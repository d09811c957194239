#include "ssa/data/batch_plan.h"

#include <algorithm>
#include <cmath>

#include "ssa/base/error.h"

namespace ssa {
namespace {

/// Which rows of its sources a mix skips is known only by going through them.
constexpr std::int64_t kMostSkippedRows = 1'000'000'000;

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
  SSA_CHECK(o_.mixed ? !o_.sources.empty() : o_.sources.size() == 1, "batch plan: ", o_.sources.size(), " sources");
  std::vector<double> weights;
  for (const Source& source : o_.sources) {
    SSA_CHECK(source.rows_per_epoch > 0, "batch plan: a source of ", source.rows_per_epoch, " rows");
    rows_per_epoch_ += source.rows_per_epoch;
    weights.push_back(source.weight);
  }
  if (o_.mixed) mix_.emplace(weights);
  o_.skip_ranges = merged(o_.skip_ranges);
  if (o_.mixed) {
    std::int64_t skipped = 0;
    for (const RowRange& range : o_.skip_ranges) skipped += std::min(kMostSkippedRows, range.last - range.first) + 1;
    if (skipped > kMostSkippedRows)
      fail_usage("data.skip_ranges: more than ", kMostSkippedRows, " rows, expected at most as many with data.sources");
  }
  for (const BatchSize& size : o_.global_rows.schedule())
    if (o_.micro_rows < 1 || o_.ranks < 1 || size.rows % (o_.micro_rows * o_.ranks) != 0)
      fail_usage("global batch of ", size.rows, " rows, expected a multiple of ", o_.ranks, " ranks x ", o_.micro_rows,
                 " rows per micro-batch");
  if (const std::int64_t largest = o_.global_rows.largest(); rows_per_epoch_ < largest)
    fail_usage("zero steps in an epoch: the data makes ", rows_per_epoch_,
               " rows, expected at least one global batch of ", largest);
}

std::int64_t BatchPlan::usable_rows(std::int64_t epoch, std::int64_t begin, std::int64_t end) const {
  const std::int64_t offset = epoch * rows_per_epoch_;
  std::int64_t rows = std::max<std::int64_t>(0, end - begin);
  for (const RowRange& skipped : o_.skip_ranges) {
    const std::int64_t first = std::max(skipped.first, offset + begin), last = std::min(skipped.last, offset + end - 1);
    rows -= std::max<std::int64_t>(0, last - first + 1);
  }
  return rows;
}

GlobalBatch BatchPlan::batch_at(const DataPosition& from, std::int64_t step) const {
  const std::int64_t rows_wanted = global_rows(step);
  if (o_.mixed) return mixed_batch_at(from, rows_wanted);
  DataPosition position = from;
  while (usable_rows(position.epoch, position.row, rows_per_epoch_) < rows_wanted) {
    position = {position.epoch + 1, 0};
    // A range over many epochs is passed at once.
    for (const RowRange& skipped : o_.skip_ranges)
      if (skipped.first <= position.epoch * rows_per_epoch_)
        position.epoch = std::max(position.epoch, (skipped.last + 1) / rows_per_epoch_);
  }
  GlobalBatch batch{.rows = {}, .numbers = {}, .next = position};
  const std::int64_t offset = position.epoch * rows_per_epoch_;
  auto skipped = o_.skip_ranges.begin();
  std::int64_t row = position.row;
  while (std::ssize(batch.rows) < rows_wanted) {
    while (skipped != o_.skip_ranges.end() && skipped->last < offset + row) ++skipped;
    if (skipped != o_.skip_ranges.end() && skipped->first <= offset + row)
      row = skipped->last + 1 - offset;
    else
      batch.rows.push_back({.source = 0, .epoch = position.epoch, .row = row++});
  }
  batch.numbers = {offset + batch.rows.front().row, offset + batch.rows.back().row};
  batch.next.row = row;
  return batch;
}

GlobalBatch BatchPlan::mixed_batch_at(const DataPosition& position, std::int64_t global_rows) const {
  GlobalBatch batch{.rows = {}, .numbers = {}, .next = position};
  auto& [epoch, number, sources] = batch.next;
  if (sources.empty()) sources.resize(o_.sources.size());
  SSA_CHECK(epoch == 0 && sources.size() == o_.sources.size(), "batch plan: a position of ", sources.size(),
            " sources, expected ", o_.sources.size());
  std::vector<std::int64_t> given;
  for (const SourcePosition& source : sources) given.push_back(source.given);
  for (auto skipped = o_.skip_ranges.begin(); std::ssize(batch.rows) < global_rows; ++number) {
    const std::size_t source = mix_->next(given);
    SourcePosition& at = sources[source];
    const RowRef row{.source = static_cast<std::int64_t>(source), .epoch = at.epoch, .row = at.row};
    at.given = ++given[source];
    if (++at.row == o_.sources[source].rows_per_epoch) {
      at.row = 0;
      ++at.epoch;
    }
    while (skipped != o_.skip_ranges.end() && skipped->last < number) ++skipped;
    if (skipped != o_.skip_ranges.end() && skipped->first <= number) continue;
    if (batch.rows.empty()) batch.numbers.first = number;
    batch.rows.push_back(row);
    batch.numbers.last = number;
  }
  return batch;
}

std::int64_t BatchPlan::batches_until(double epochs, const DataPosition& from, std::int64_t step) const {
  if (o_.mixed) {
    const auto end_row = static_cast<std::int64_t>(epochs * static_cast<double>(rows_per_epoch_));
    return o_.global_rows.steps_within(usable_rows(0, from.row, end_row), step);
  }
  DataPosition position = from;
  std::int64_t batches = 0;
  for (;; position = {position.epoch + 1, 0}) {
    // Counted without skipped rows first, so that skipping leaves the last row of the run where it is. A part of an
    // epoch is counted in batches of the size with which the epoch begins, or the run continues.
    const std::int64_t size = global_rows(step + batches), per_epoch = rows_per_epoch_ / size;
    const auto end = static_cast<std::int64_t>(std::ceil(epochs * static_cast<double>(per_epoch)));
    const std::int64_t in_epoch = std::min(per_epoch, end - position.epoch * per_epoch);
    if (in_epoch <= 0) return batches;
    const std::int64_t last_row = in_epoch == per_epoch ? rows_per_epoch_ : in_epoch * size;
    batches += o_.global_rows.steps_within(usable_rows(position.epoch, position.row, last_row), step + batches);
  }
}

double BatchPlan::epochs_at(const DataPosition& position, std::int64_t step) const {
  if (o_.mixed) return static_cast<double>(position.row) / static_cast<double>(rows_per_epoch_);
  const std::int64_t rows = batches_per_epoch(step) * global_rows(step);
  return static_cast<double>(position.epoch * rows + std::min(position.row, rows)) / static_cast<double>(rows);
}

double BatchPlan::source_epochs_at(const DataPosition& position, std::size_t source) const {
  if (position.sources.empty()) return 0;
  const SourcePosition& at = position.sources.at(source);
  const auto rows = static_cast<double>(o_.sources[source].rows_per_epoch);
  return static_cast<double>(at.epoch) + static_cast<double>(at.row) / rows;
}

}  // namespace ssa
