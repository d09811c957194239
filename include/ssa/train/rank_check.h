// Start-up checks that all ranks do the same: the same program and config, the same data, the same weights. Without them, a
// rank that sees other files would train a wrong model in silence, or wait in a collective that no other rank calls.
//
// Each is a collective. It throws an Error on every rank when a rank differs from rank 0; the message names the ranks, and
// the first thing that differs, as found on the first of them and as expected.
#pragma once

#include <string>
#include <vector>

#include "ssa/comm/comm.h"
#include "ssa/config/config.h"
#include "ssa/train/model_state.h"
#include "ssa/train/train.h"

namespace ssa {

/// Compares texts, one per thing, such as "rows per epoch: 480". `advice` ends the message.
void check_same_lines(Comm& comm, const std::vector<std::string>& lines, const std::string& advice);

/// The binary, --resume, --allow-change and every key of the config. Before anything is opened.
void check_same_command(Comm& comm, const Config& config, const TrainOptions& options);

/// The weights that the ops read, to the bit.
void check_same_weights(Stream& stream, Comm& comm, const ModelState& state);

}  // namespace ssa
