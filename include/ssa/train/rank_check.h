// Start-up check that all ranks have the same config and weights; a mismatch would train a wrong model silently.
#pragma once

#include "ssa/comm/comm.h"
#include "ssa/config/config.h"
#include "ssa/train/model_state.h"

namespace ssa {

/// UsageError on every rank, naming the ranks and the first key, when a config differs from rank 0's.
void check_same_config(Comm& comm, const Config& config);

/// Error on every rank, naming the ranks, when the weights the ops read differ from rank 0's in any bit.
void check_same_weights(Stream& stream, Comm& comm, const ModelState& state);

}  // namespace ssa
