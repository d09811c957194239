// Which row goes where: a pure function of the number k of the global batch, counted over the whole run from 0. That
// integer is all the state a loader has.
//
// Inside a global batch, micro-batch i of rank r takes the rows of slot i * ranks + r. So the order of the rows, and
// the rows that share a micro-batch, do not depend on the number of ranks. The last incomplete global batch of an epoch
// is dropped.
#pragma once

#include <cstdint>

#include "ssa/base/error.h"

namespace ssa {

class BatchPlan {
 public:
  struct Options {
    std::int64_t rows_per_epoch;
    std::int64_t global_rows;  ///< rows in a global batch: one optimizer step
    std::int64_t micro_rows;   ///< rows of one rank in one micro-batch
    std::int64_t ranks;
  };

  /// Throws UsageError when the global batch cannot be cut so, or when an epoch has no whole global batch.
  explicit BatchPlan(const Options& options) : o_(options) {
    if (o_.micro_rows < 1 || o_.ranks < 1 || o_.global_rows < 1 || o_.global_rows % (o_.micro_rows * o_.ranks) != 0)
      fail_usage("global batch of ", o_.global_rows, " rows, expected a multiple of ", o_.ranks, " ranks x ",
                 o_.micro_rows, " rows per micro-batch");
    if (batches_per_epoch() < 1)
      fail_usage("zero steps in an epoch: the data makes ", o_.rows_per_epoch,
                 " rows, expected at least one global batch of ", o_.global_rows);
  }

  std::int64_t batches_per_epoch() const { return o_.rows_per_epoch / o_.global_rows; }
  std::int64_t dropped_rows() const { return o_.rows_per_epoch % o_.global_rows; }            ///< in each epoch
  std::int64_t micro_batches() const { return o_.global_rows / (o_.micro_rows * o_.ranks); }  ///< accumulated per step
  std::int64_t global_rows() const { return o_.global_rows; }

  std::int64_t epoch(std::int64_t k) const { return k / batches_per_epoch(); }
  /// Place in its epoch's order of the first row of global batch k; the others follow.
  std::int64_t first_row(std::int64_t k) const { return k % batches_per_epoch() * o_.global_rows; }
  /// The same for the micro_rows rows of one micro-batch of one rank.
  std::int64_t first_row(std::int64_t k, std::int64_t micro_batch, std::int64_t rank) const {
    return first_row(k) + (micro_batch * o_.ranks + rank) * o_.micro_rows;
  }

 private:
  Options o_;
};

}  // namespace ssa
