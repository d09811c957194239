// Start-up checks that all ranks have the same program, config, data and weights. Without them, a rank that reads other
// files would silently train a wrong model, or wait in a collective that no other rank calls.
//
// Each is a collective. If a rank differs from rank 0, it throws an Error on every rank. The message names the ranks
// that differ, the first difference, its value on the first of them, and the value on rank 0.
#pragma once

#include <string>
#include <vector>

#include "ssa/comm/comm.h"
#include "ssa/config/config.h"
#include "ssa/train/model_state.h"
#include "ssa/train/train.h"

namespace ssa {

/// Compares lines of text such as "rows per epoch: 480". `advice` ends the message.
void check_same_lines(Comm& comm, const std::vector<std::string>& lines, const std::string& advice);

/// Compares the checksum of what this rank read, `own`, with the one that rank 0 computed for it, in `expected` (one
/// per rank, used on rank 0). `what` names it: "checkpoint".
void check_same_parts(Comm& comm, const std::string& what, const std::string& own,
                      const std::vector<std::string>& expected, const std::string& advice);

/// The binary, --resume, --allow-change and every key of the config. Before anything is opened.
void check_same_command(Comm& comm, const Config& config, const TrainOptions& options);

/// The weights that the ops read, to the bit. `shard`: the ranks that share a state; at ZeRO stage 3 their shards are
/// gathered bucket by bucket, before the first pass.
void check_same_weights(Stream& stream, Comm& comm, Comm& shard, const ModelState& state);

}  // namespace ssa
