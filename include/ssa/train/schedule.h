// Learning-rate schedules and step counts, as in the Hugging Face trainer. Steps count from 0.
//
//   W = warm-up steps, N = total steps, s = step, p = (s - W) / max(1, N - W), r = min_lr / learning_rate
//   s < W, every schedule      s / W: the first update of a warm-up has rate 0
//   cosine_with_min_lr         r + (1 - r) (1 + cos(pi p)) / 2
//   cosine                     (1 + cos(pi p)) / 2
//   linear                     1 - p
//   constant_with_warmup       1
//   warmup_stable_decay        1 up to step N - E, then 1 - (1 - r) (s - (N - E)) / E: linear to min_lr over the last
//                              E = ceil(N / 10) steps, or those after the warm-up if they are fewer
// each times learning_rate. (In HF the caller gives the length of warmup_stable_decay's decay; a tenth is MiniCPM's,
// arXiv 2404.06395.)
#pragma once

#include <cstdint>

#include "ssa/config/config.h"

namespace ssa {

double learning_rate(const TrainConfig& train, std::int64_t step, std::int64_t total_steps);

/// warmup_steps, or ceil(warmup_ratio * total_steps), or 0 without either.
std::int64_t warmup_steps(const TrainConfig& train, std::int64_t total_steps);

/// Steps between two checkpoints: save_steps, or ceil(save_steps * total_steps) if it is a fraction; 0 = only at the
/// end.
std::int64_t save_interval(const CheckpointConfig& checkpoint, std::int64_t total_steps);

}  // namespace ssa
