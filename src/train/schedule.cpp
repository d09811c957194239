#include "ssa/train/schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "ssa/base/error.h"

namespace ssa {
namespace {

/// What a decay leaves: 1 at its begin, 0 at its end.
double left_after(DecayType type, double decayed) {
  switch (type) {
    case DecayType::linear: return 1.0 - decayed;
    case DecayType::cosine: return 0.5 * (1.0 + std::cos(std::numbers::pi * decayed));
    case DecayType::one_minus_sqrt: return 1.0 - std::sqrt(decayed);
  }
  fail("train.decay_type: unknown value ", static_cast<int>(type));
}

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
      const std::int64_t decay = decay_steps(train, total);
      if (decay == 0 || step <= total - decay) return 1.0;
      const double decayed = static_cast<double>(step - (total - decay)) / static_cast<double>(decay);
      return floor + (1.0 - floor) * left_after(train.decay_type, std::min(1.0, decayed));
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

std::int64_t decay_steps(const TrainConfig& train, std::int64_t total_steps) {
  if (train.lr_scheduler_type != LrScheduler::warmup_stable_decay) return 0;
  const std::int64_t steps = train.decay_steps
                                 ? *train.decay_steps
                                 : ceil_of(train.decay_ratio.value_or(0.0) * static_cast<double>(total_steps));
  return std::min(steps, std::max<std::int64_t>(1, total_steps - warmup_steps(train, total_steps)));
}

void check_schedule(const TrainConfig& train, std::int64_t total_steps) {
  const std::int64_t warmup = warmup_steps(train, total_steps), most = std::max<std::int64_t>(0, total_steps - warmup);
  if (train.decay_steps && *train.decay_steps > most)
    fail_usage("train.decay_steps: found ", *train.decay_steps, ", expected at most ", most, ": the run has ",
               total_steps, " steps, of which ", warmup, " are warm-up");
}

void check_branch(const TrainConfig& train, std::int64_t step, std::int64_t total_steps) {
  if (total_steps <= step)
    fail_usage("train.max_steps: found ", total_steps, ", expected more than ", step,
               ", the steps that init_from has done (init_state run)");
  const std::int64_t decay = decay_steps(train, total_steps);
  if (decay > total_steps - step)
    fail_usage(train.decay_steps ? "train.decay_steps" : "train.decay_ratio", ": found a decay of ", decay,
               " steps, expected at most ", total_steps - step, ": init_from has done ", step, " of ", total_steps,
               " steps, and the decay would have begun before");
}

std::string schedule_line(const TrainConfig& train, std::int64_t total_steps) {
  const std::int64_t warmup = std::min(warmup_steps(train, total_steps), total_steps);
  std::string text = fmt::format("learning rate: {}, ", name_of(train.lr_scheduler_type));
  if (warmup == total_steps)
    return text + fmt::format("warm-up in all steps, {:g} in the last one: train.learning_rate {:g} is not reached",
                              learning_rate(train, total_steps - 1, total_steps), train.learning_rate);
  if (warmup > 0) text += fmt::format("warm-up in steps 0 to {}, ", warmup - 1);
  text += fmt::format("{:g} at step {}", train.learning_rate, warmup);
  if (const std::int64_t decay = decay_steps(train, total_steps))
    text += fmt::format(", {} decay from step {} on", name_of(train.decay_type), total_steps - decay);
  return text + fmt::format(", {:g} in the last step", learning_rate(train, total_steps - 1, total_steps));
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
