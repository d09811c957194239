// Ranks that do not hold the same run train on without a word and end with nonsense: compared at the start.
#pragma once

#include "ssa/comm/comm.h"
#include "ssa/config/config.h"
#include "ssa/train/model_state.h"

namespace ssa {

/// UsageError on every rank, naming the ranks and the first key, when not all hold the config of rank 0.
void check_same_config(Comm& comm, const Config& config);

/// Error on every rank, naming the ranks, when the weights the ops read are not those of rank 0 to the bit.
void check_same_weights(Stream& stream, Comm& comm, const ModelState& state);

}  // namespace ssa
