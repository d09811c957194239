#include "ssa/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "ssa/base/error.h"

namespace ssa {
namespace {

/// The fraction of the peak rate at `step`, after the warm-up.
double share_of_peak(const TrainConfig& train, std::int64_t step, std::int64_t total, std::int64_t warmup) {
  const double floor = train.min_lr / train.learning_rate;
  const std::int64_t rest = std::max<std::int64_t>(1, total - warmup);
  const double progress = std::min(1.0, static_cast<double>(step - warmup) / static_cast<double>(rest));
  const double cosine = 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
  switch (train.lr_scheduler_type) {
    case LrScheduler::cosine_with_min_lr: return floor + (1.0 - floor) * cosine;
    case LrScheduler::cosine: return cosine;
    case LrScheduler::linear: return 1.0 - progress;
    case LrScheduler::constant_with_warmup: return 1.0;
    case LrScheduler::warmup_stable_decay: {
      const std::int64_t decay = std::min((total + 9) / 10, rest);
      const double decayed = static_cast<double>(step - (total - decay)) / static_cast<double>(decay);
      return 1.0 - (1.0 - floor) * std::clamp(decayed, 0.0, 1.0);
    }
  }
  fail("learning rate: unknown schedule ", static_cast<int>(train.lr_scheduler_type));
}

std::int64_t ceil_of(double steps) { return static_cast<std::int64_t>(std::ceil(steps)); }

}  // namespace

std::int64_t warmup_steps(const TrainConfig& train, std::int64_t total_steps) {
  if (train.warmup_steps) return *train.warmup_steps;
  return ceil_of(train.warmup_ratio.value_or(0.0) * static_cast<double>(total_steps));
}

double learning_rate(const TrainConfig& train, std::int64_t step, std::int64_t total_steps) {
  const std::int64_t warmup = warmup_steps(train, total_steps);
  if (step < warmup) return train.learning_rate * static_cast<double>(step) / static_cast<double>(warmup);
  return train.learning_rate * share_of_peak(train, step, total_steps, warmup);
}

std::int64_t save_interval(const CheckpointConfig& checkpoint, std::int64_t total_steps) {
  if (checkpoint.save_steps >= 1.0) return static_cast<std::int64_t>(checkpoint.save_steps);
  return ceil_of(checkpoint.save_steps * static_cast<double>(total_steps));
}

}  // namespace ssa
