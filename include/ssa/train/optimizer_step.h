// The gradients of a step: norm, clipping, update of the weights.
#pragma once

#include <string>

#include "ssa/comm/comm.h"
#include "ssa/config/config.h"
#include "ssa/train/model_state.h"
#include "ssa/train/moment_staging.h"
#include "ssa/train/step_exchange.h"

namespace ssa {

/// state.sums.squared_norm of every bucket = squared norm of ModelState::gradient_slice. The sum over the buckets and
/// ranks is that of all gradients, with the same bits at every ZeRO stage.
void measure_gradients(Stream& stream, const ModelState& state);

/// One AdamW update of the owned elements, with gradients scaled by `gradient_scale`. The exchange sends the weights to
/// the other ranks; the moments are read and written through `moments`.
void update_weights(Stream& stream, StepExchange& exchange, MomentStaging& moments, const ModelState& state,
                    const TrainConfig& train, double learning_rate, double gradient_scale, std::int64_t step);

/// Updates the weights every rank computes with from the master weights each owns: at ZeRO stage 3 its shard, which
/// every pass gathers. `comm`: the ranks that share a state.
void publish_weights(Stream& stream, Comm& comm, const ModelState& state);

/// Whether all weights that the ranks compute with are finite. A collective.
bool weights_are_finite(Stream& stream, Comm& comm, const ModelState& state);

/// The first tensor of this rank that is not finite, in the order of the computation: the weights as the forward pass
/// uses them, then the gradients as the backward pass computes them. What is computed later is often not finite only
/// because this one is not. "weight of NAME", "gradient of NAME" or "none". From ZeRO stage 2 on, where a layer's
/// gradients are overwritten, they are found from the sums of the step, without a name: "gradient of a matrix of
/// model.layers.N". A collective.
std::string first_nonfinite_tensor(Stream& stream, Comm& comm, const ModelState& state);

/// Makes the first gradient NaN: what SSA_FAULT=nan does (ssa/base/fault.h).
void spoil_gradient(Stream& stream, const ModelState& state);

}  // namespace ssa
