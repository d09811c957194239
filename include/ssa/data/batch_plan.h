// Assigns rows (sequences) to optimizer steps, ranks and micro-batches.
//
// The position in the data is a number of rows, not of steps: a run may continue with another batch size or number of
// ranks, and no row of an epoch is used twice. A global batch has rows of one epoch only. Rows at the end of an
// epoch that do not fill a global batch are dropped.
//
// Within a global batch, micro-batch i of rank r takes the rows of slot i * ranks + r. So neither the order of the rows
// nor the rows that share a micro-batch depend on the number of ranks.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ssa/data/row_range.h"

namespace ssa {

/// The next row of a run: its index in the order of epoch `epoch`. The row's number in the run is
/// epoch * rows_per_epoch + row.
struct DataPosition {
  std::int64_t epoch = 0, row = 0;
  bool operator==(const DataPosition&) const = default;
};

/// The rows of one optimizer step.
struct GlobalBatch {
  std::int64_t epoch;
  std::vector<std::int64_t> rows;  ///< indices in the order of the epoch, ascending
  DataPosition next;               ///< the position after this batch
};

class BatchPlan {
 public:
  struct Options {
    std::int64_t rows_per_epoch;
    std::int64_t global_rows;  ///< rows per global batch, that is, per optimizer step
    std::int64_t micro_rows;   ///< rows per micro-batch on one rank
    std::int64_t ranks;
    std::vector<RowRange> skip_ranges{};  ///< rows of the run that no batch uses
  };

  /// Throws UsageError if global_rows is not a multiple of micro_rows * ranks, or if an epoch has no full global batch.
  explicit BatchPlan(const Options& options);

  std::int64_t rows_per_epoch() const { return o_.rows_per_epoch; }
  std::int64_t global_rows() const { return o_.global_rows; }
  std::int64_t micro_batches() const { return o_.global_rows / (o_.micro_rows * o_.ranks); }  ///< per rank and step
  /// Of an epoch from which no row is skipped.
  std::int64_t batches_per_epoch() const { return o_.rows_per_epoch / o_.global_rows; }
  std::int64_t dropped_rows() const { return o_.rows_per_epoch % o_.global_rows; }

  /// The global batch that begins at `position`, or in the next epoch that has a full one.
  GlobalBatch batch_at(DataPosition position) const;

  /// The rows of one micro-batch of one rank: micro_rows elements of batch.rows.
  std::span<const std::int64_t> micro_batch(const GlobalBatch& batch, std::int64_t micro, std::int64_t rank) const {
    const auto rows = static_cast<std::size_t>(o_.micro_rows);
    return std::span(batch.rows).subspan(static_cast<std::size_t>(micro * o_.ranks + rank) * rows, rows);
  }

  /// Global batches from `position` to the end of `epochs` epochs. A fraction of an epoch is rounded up to a batch.
  std::int64_t batches_until(double epochs, DataPosition position) const;

  /// Epochs done at `position`: 1.5 is in the middle of the second one.
  double epochs_at(DataPosition position) const;

 private:
  /// Rows of [begin, end) of an epoch that are not skipped.
  std::int64_t usable_rows(std::int64_t epoch, std::int64_t begin, std::int64_t end) const;

  Options o_;  ///< with skip_ranges sorted and disjoint
};

}  // namespace ssa
