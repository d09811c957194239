// Assigns rows (sequences) to ranks and micro-batches: a pure function of the index k of the global batch, counted from
// 0 over the whole run. k is the only state of data loading.
//
// Within a global batch, micro-batch i of rank r takes the rows of slot i * ranks + r. So neither the order of the rows
// nor the rows that share a micro-batch depend on the number of ranks. The last, incomplete global batch of an epoch is
// dropped.
#pragma once

#include <cstdint>

#include "ssa/base/error.h"

namespace ssa {

class BatchPlan {
 public:
  struct Options {
    std::int64_t rows_per_epoch;
    std::int64_t global_rows;  ///< rows per global batch, that is, per optimizer step
    std::int64_t micro_rows;   ///< rows per micro-batch on one rank
    std::int64_t ranks;
  };

  /// Throws UsageError if global_rows is not a multiple of micro_rows * ranks, or if an epoch has no full global batch.
  explicit BatchPlan(const Options& options) : o_(options) {
    if (o_.micro_rows < 1 || o_.ranks < 1 || o_.global_rows < 1 || o_.global_rows % (o_.micro_rows * o_.ranks) != 0)
      fail_usage("global batch of ", o_.global_rows, " rows, expected a multiple of ", o_.ranks, " ranks x ",
                 o_.micro_rows, " rows per micro-batch");
    if (batches_per_epoch() < 1)
      fail_usage("zero steps in an epoch: the data makes ", o_.rows_per_epoch,
                 " rows, expected at least one global batch of ", o_.global_rows);
  }

  std::int64_t batches_per_epoch() const { return o_.rows_per_epoch / o_.global_rows; }
  std::int64_t dropped_rows() const { return o_.rows_per_epoch % o_.global_rows; }            ///< per epoch
  std::int64_t micro_batches() const { return o_.global_rows / (o_.micro_rows * o_.ranks); }  ///< per rank and step
  std::int64_t global_rows() const { return o_.global_rows; }

  std::int64_t epoch(std::int64_t k) const { return k / batches_per_epoch(); }
  /// Index, in the order of the epoch, of the first row of global batch k. The other rows follow it.
  std::int64_t first_row(std::int64_t k) const { return k % batches_per_epoch() * o_.global_rows; }
  /// The same for one micro-batch of one rank, which has micro_rows rows.
  std::int64_t first_row(std::int64_t k, std::int64_t micro_batch, std::int64_t rank) const {
    return first_row(k) + (micro_batch * o_.ranks + rank) * o_.micro_rows;
  }

 private:
  Options o_;
};

}  // namespace ssa
