// What happens to the gradients of a step: summed over the ranks, measured, clipped, applied.
#pragma once

#include <string>

#include "ssa/comm/comm.h"
#include "ssa/config/config.h"
#include "ssa/train/model_state.h"

namespace ssa {

/// Sums the gradients over the ranks: every element at ZeRO stage 0, the owned ones from stage 1 on, after which the
/// others are undefined.
void reduce_gradients(Stream& stream, Comm& comm, const ModelState& state);

/// state.sums.squared_norm() = squared norm of the gradients this rank owns; from stage 1 on, add the ranks' norms.
void measure_gradients(Stream& stream, const ModelState& state);

/// The same of every gradient this rank computed, before reduce_gradients.
void measure_local_gradients(Stream& stream, const ModelState& state);

/// One AdamW update of the owned elements, with gradients scaled by `gradient_scale`, then publish_weights.
void update_weights(Stream& stream, Comm& comm, const ModelState& state, const TrainConfig& train, double learning_rate,
                    double gradient_scale, std::int64_t step);

/// Updates the weights every rank computes with from the master weights each owns.
void publish_weights(Stream& stream, Comm& comm, const ModelState& state);

/// The parameter whose gradient is the first that is not finite, in the order in which the backward pass computes them;
/// empty if all are finite. What is computed later is often not finite only because this one is not.
std::string first_nonfinite_gradient(Stream& stream, const ModelState& state);

/// Makes the first gradient NaN: what SSA_FAULT=nan does (ssa/base/fault.h).
void spoil_gradient(Stream& stream, const ModelState& state);

}  // namespace ssa
