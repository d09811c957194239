// The gradients of a step: sum over the ranks, norm, clipping, update of the weights.
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

/// Whether all weights that this rank computes with are finite.
bool weights_are_finite(Stream& stream, const ModelState& state);

/// The first tensor that is not finite, in the order of the computation: the weights as the forward pass uses them,
/// then the gradients as the backward pass computes them. What is computed later is often not finite only because this
/// one is not. "weight of NAME", "gradient of NAME" or "none".
std::string first_nonfinite_tensor(Stream& stream, const ModelState& state);

/// Makes the first gradient NaN: what SSA_FAULT=nan does (ssa/base/fault.h).
void spoil_gradient(Stream& stream, const ModelState& state);

}  // namespace ssa
