// Rows (sequences) per optimizer step. A separate header, because the config does not need the loader.
#pragma once

#include <cstdint>
#include <vector>

namespace ssa {

/// Rows per step from a step on; steps count from 0.
struct BatchSize {
  std::int64_t first_step = 0, rows = 0;
  bool operator==(const BatchSize&) const = default;
};

/// The same number of rows in every step, or a schedule.
class BatchSizes {
 public:
  BatchSizes(std::int64_t rows) : BatchSizes(std::vector<BatchSize>{{0, rows}}) {}
  /// Throws Error unless the first one begins at step 0, each begins after the one before it, and all have rows.
  explicit BatchSizes(std::vector<BatchSize> schedule);

  const std::vector<BatchSize>& schedule() const { return schedule_; }
  bool constant() const { return schedule_.size() == 1; }
  std::int64_t largest() const;
  /// Rows of step `step`.
  std::int64_t rows_at(std::int64_t step) const;
  /// Rows of steps 0 to `step` - 1.
  std::int64_t rows_before(std::int64_t step) const;
  /// Steps from `step` on for which `rows` rows are enough, if no step is left out.
  std::int64_t steps_within(std::int64_t rows, std::int64_t step) const;

 private:
  std::vector<BatchSize> schedule_;
};

}  // namespace ssa
