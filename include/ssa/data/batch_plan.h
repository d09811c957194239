// Assigns rows (sequences) to optimizer steps, ranks and micro-batches.
//
// The position in the data is a number of rows, not of steps: a run may continue with another batch size or number of
// ranks, and no row of an epoch is used twice.
//
//   one dataset   A global batch has rows of one epoch only. Rows at the end of an epoch that do not fill a global
//                 batch are dropped.
//   a mix         Each row comes from the source that mix.h names. Every source has its own epochs, and the next row
//                 after the last one of an epoch is the first one of the next. No row is dropped. An epoch of the mix
//                 is as many rows as all sources have.
//
// Within a global batch, micro-batch i of rank r takes the rows of slot i * ranks + r. So neither the order of the rows
// nor the rows that share a micro-batch depend on the number of ranks.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "ssa/data/batch_size.h"
#include "ssa/data/mix.h"
#include "ssa/data/row_range.h"

namespace ssa {

/// The next row of a source of a mix, and the rows that the mix has taken from it.
struct SourcePosition {
  std::int64_t epoch = 0, row = 0, given = 0;
  bool operator==(const SourcePosition&) const = default;
};

/// The next row of a run: its index in the order of epoch `epoch`. The row's number in the run is
/// epoch * rows_per_epoch + row. In a mix, `row` is that number and `epoch` is 0.
struct DataPosition {
  std::int64_t epoch = 0, row = 0;
  std::vector<SourcePosition> sources{};  ///< of a mix; all at their first row if it is empty
  bool operator==(const DataPosition&) const = default;
};

/// A row of a source: its index in the order of the source's epoch.
struct RowRef {
  std::int64_t source, epoch, row;
  bool operator==(const RowRef&) const = default;
};

/// The rows of one optimizer step.
struct GlobalBatch {
  std::vector<RowRef> rows;  ///< in the order of the run
  RowRange numbers;          ///< the first and the last one, as data.skip_ranges counts them
  DataPosition next;         ///< the position after this batch
};

class BatchPlan {
 public:
  struct Source {
    std::int64_t rows_per_epoch;
    double weight = 1;
  };
  struct Options {
    std::vector<Source> sources;
    bool mixed = false;       ///< false: one dataset
    BatchSizes global_rows;   ///< rows per global batch, that is, per optimizer step
    std::int64_t micro_rows;  ///< rows per micro-batch on one rank
    std::int64_t ranks;
    std::vector<RowRange> skip_ranges{};  ///< rows of the run that no batch uses; a mix takes them from its sources
  };

  /// Throws UsageError if global_rows is not a multiple of micro_rows * ranks, if an epoch has no full global batch of
  /// the largest size, or if more than 1e9 rows of a mix are skipped.
  explicit BatchPlan(const Options& options);

  bool mixed() const { return o_.mixed; }
  std::int64_t rows_per_epoch() const { return rows_per_epoch_; }  ///< of all sources
  const BatchSizes& batch_sizes() const { return o_.global_rows; }
  // In these, `step` is the number of steps done; it matters only if the batch size has a schedule.
  std::int64_t global_rows(std::int64_t step = 0) const { return o_.global_rows.rows_at(step); }
  std::int64_t micro_batches(std::int64_t step = 0) const {  ///< per rank
    return global_rows(step) / (o_.micro_rows * o_.ranks);
  }
  /// Of an epoch from which no row is skipped, all with the batch size of `step`.
  std::int64_t batches_per_epoch(std::int64_t step = 0) const { return rows_per_epoch() / global_rows(step); }
  std::int64_t dropped_rows(std::int64_t step = 0) const { return o_.mixed ? 0 : rows_per_epoch() % global_rows(step); }

  /// The global batch that begins at `position`, or in the next epoch that has a full one.
  GlobalBatch batch_at(const DataPosition& position, std::int64_t step = 0) const;

  /// The rows of one micro-batch of one rank: micro_rows elements of batch.rows.
  std::span<const RowRef> micro_batch(const GlobalBatch& batch, std::int64_t micro, std::int64_t rank) const {
    const auto rows = static_cast<std::size_t>(o_.micro_rows);
    return std::span(batch.rows).subspan(static_cast<std::size_t>(micro * o_.ranks + rank) * rows, rows);
  }

  /// Global batches from `position` to the end of `epochs` epochs. A fraction of an epoch is rounded up to a batch; in
  /// a mix, the end is rounded down to one.
  std::int64_t batches_until(double epochs, const DataPosition& position, std::int64_t step = 0) const;

  /// Epochs done at `position`: 1.5 is in the middle of the second one.
  double epochs_at(const DataPosition& position, std::int64_t step = 0) const;
  /// The same of a source of a mix.
  double source_epochs_at(const DataPosition& position, std::size_t source) const;

 private:
  GlobalBatch mixed_batch_at(const DataPosition& position, std::int64_t global_rows) const;
  /// Rows of [begin, end) of an epoch that are not skipped.
  std::int64_t usable_rows(std::int64_t epoch, std::int64_t begin, std::int64_t end) const;

  Options o_;  ///< with skip_ranges sorted and disjoint
  std::int64_t rows_per_epoch_ = 0;
  std::optional<Mix> mix_;
};

}  // namespace ssa
