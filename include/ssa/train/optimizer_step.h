// What happens to the gradients of a step: summed over the ranks, measured, clipped, applied.
#pragma once

#include <string>

#include "ssa/comm/comm.h"
#include "ssa/config/config.h"
#include "ssa/train/model_state.h"

namespace ssa {

/// Sums the gradients over the ranks: of every element at ZeRO stage 0, of the owned ones from stage 1 on (the rest is
/// then undefined).
void reduce_gradients(Stream& stream, Comm& comm, const ModelState& state);

/// state.norm = squared norm of the gradients this rank answers for: after reduce_gradients, add the ranks' at stage 1.
void measure_gradients(Stream& stream, const ModelState& state);

/// One AdamW update of the owned elements, with gradients scaled by `gradient_scale`, then publish_weights.
void update_weights(Stream& stream, Comm& comm, const ModelState& state, const TrainConfig& train, double learning_rate,
                    double gradient_scale, std::int64_t step);

/// The weights every rank computes with, from the master weights each owns.
void publish_weights(Stream& stream, Comm& comm, const ModelState& state);

/// The first parameter, in the order of the table, whose gradient is not finite; empty if all are.
std::string first_nonfinite_gradient(Stream& stream, const ModelState& state);

}  // namespace ssa
