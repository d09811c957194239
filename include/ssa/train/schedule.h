// Learning-rate schedules and step counts, as in the Hugging Face trainer. Steps count from 0.
//
//   W = warm-up steps, N = total steps, s = step, p = (s - W) / max(1, N - W), r = min_lr / learning_rate
//   s < W, every schedule      s / W: the first update of a warm-up has rate 0
//   cosine_with_min_lr         r + (1 - r) (1 + cos(pi p)) / 2
//   cosine                     (1 + cos(pi p)) / 2
//   linear                     1 - p
//   constant_with_warmup       1
//   warmup_stable_decay        1 up to step N - E; then, with d = (s - (N - E)) / E, by decay_type
//     linear                   r + (1 - r) (1 - d)
//     cosine                   r + (1 - r) (1 + cos(pi d)) / 2
//     1-sqrt                   r + (1 - r) (1 - sqrt(d)), Haegele et al., arXiv 2405.18392
// each times learning_rate. E = decay_steps, or ceil(decay_ratio N), but at most N - W. The default, a tenth, is
// MiniCPM's (arXiv 2404.06395). With E = 0 the rate stays at 1.
//
// A step is an optimizer step, of as many tokens as train.global_batch_size_schedule says: a schedule of the batch size
// does not change the rate of a step.
#pragma once

#include <cstdint>
#include <string>

#include "ssa/config/config.h"

namespace ssa {

double learning_rate(const TrainConfig& train, std::int64_t step, std::int64_t total_steps);

/// warmup_steps, or ceil(warmup_ratio * total_steps), or 0 without either.
std::int64_t warmup_steps(const TrainConfig& train, std::int64_t total_steps);

/// Steps of warmup_stable_decay's decay; 0 for the other schedules.
std::int64_t decay_steps(const TrainConfig& train, std::int64_t total_steps);

/// Throws UsageError if decay_steps and the warm-up are longer than the run.
void check_schedule(const TrainConfig& train, std::int64_t total_steps);

/// For a run that continues another one after `step` steps (init_state run): throws UsageError if no steps are left, or
/// if the decay would have begun before.
void check_branch(const TrainConfig& train, std::int64_t step, std::int64_t total_steps);

/// One line for the log: the steps of the warm-up, the stable phase and the decay, and their rates.
std::string schedule_line(const TrainConfig& train, std::int64_t total_steps);

/// Steps between two checkpoints: save_steps, or ceil(save_steps * total_steps) if it is a fraction; 0 = only at the
/// end.
std::int64_t save_interval(const CheckpointConfig& checkpoint, std::int64_t total_steps);

}  // namespace ssa
