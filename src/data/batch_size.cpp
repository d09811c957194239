#include "ssa/data/batch_size.h"

#include <algorithm>

#include "ssa/base/error.h"

namespace ssa {

BatchSizes::BatchSizes(std::vector<BatchSize> schedule) : schedule_(std::move(schedule)) {
  SSA_CHECK(!schedule_.empty() && schedule_[0].first_step == 0, "batch sizes: none from step 0 on");
  for (std::size_t i = 0; i < schedule_.size(); ++i) {
    SSA_CHECK(schedule_[i].rows > 0, "batch sizes: ", schedule_[i].rows, " rows, expected at least 1");
    SSA_CHECK(i == 0 || schedule_[i].first_step > schedule_[i - 1].first_step, "batch sizes: step ",
              schedule_[i].first_step, " after step ", schedule_[i - 1].first_step);
  }
}

std::int64_t BatchSizes::largest() const { return std::ranges::max(schedule_, {}, &BatchSize::rows).rows; }

std::int64_t BatchSizes::rows_at(std::int64_t step) const {
  return std::prev(std::ranges::upper_bound(schedule_, std::max<std::int64_t>(step, 0), {}, &BatchSize::first_step))
      ->rows;
}

std::int64_t BatchSizes::rows_before(std::int64_t step) const {
  std::int64_t rows = 0;
  for (std::size_t i = 0; i < schedule_.size() && schedule_[i].first_step < step; ++i) {
    const std::int64_t end = i + 1 < schedule_.size() ? std::min(step, schedule_[i + 1].first_step) : step;
    rows += (end - schedule_[i].first_step) * schedule_[i].rows;
  }
  return rows;
}

std::int64_t BatchSizes::steps_within(std::int64_t rows, std::int64_t step) const {
  std::int64_t steps = 0;
  for (;;) {
    const std::int64_t size = rows_at(step + steps), fit = rows / size;
    const auto next = std::ranges::upper_bound(schedule_, step + steps, {}, &BatchSize::first_step);
    if (next == schedule_.end() || step + steps + fit < next->first_step) return steps + fit;
    const std::int64_t taken = next->first_step - (step + steps);
    rows -= taken * size;
    steps += taken;
  }
}

}  // namespace ssa
