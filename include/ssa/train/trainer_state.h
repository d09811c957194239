// The state of a run besides weights and moments: trainer.json of a checkpoint.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

#include "ssa/data/batch_plan.h"
#include "ssa/train/spike_detector.h"

namespace ssa {

/// A source of data.sources.
struct SourceState {
  std::string name;
  std::string order;    ///< what its row order is keyed by besides the seed: its name; empty if data.path had it first
  std::string dataset;  ///< dataset_fingerprint()
  std::int64_t rows_per_epoch = 0;
  std::int64_t rows = 0;    ///< consumed in the run
  std::int64_t tokens = 0;  ///< in these rows, padding included
};

struct TrainerState {
  std::int64_t step = 0;             ///< completed steps, including those whose update was skipped
  DataPosition position;             ///< the next row
  std::vector<SourceState> sources;  ///< of data.sources, in the order of position.sources; none with data.path
  /// Sources that the mix no longer has, and where they stopped.
  std::vector<std::pair<SourceState, SourcePosition>> former_sources;
  std::int64_t rows = 0;             ///< rows consumed
  std::int64_t tokens = 0;           ///< in these rows, padding included
  std::int64_t skipped_updates = 0;  ///< because of spikes
  std::int64_t earlier_steps = 0;    ///< of runs that the moments were taken from (init_state optimizer)

  // Of the run that saved it, to be compared with the run that continues.
  std::int64_t total_steps = 0, global_rows = 0, rows_per_epoch = 0, ranks = 0;
  std::string dataset;             ///< dataset_fingerprint() of data.path; empty if not recorded
  std::int64_t metrics_lines = 0;  ///< lines of metrics.jsonl
};

nlohmann::json to_json(const TrainerState& state, const SpikeDetector& spikes);

/// Reads trainer.json; `where` is what errors call it. `spikes` is set if its windows were recorded. Checkpoints that
/// record no position are at step * global_rows, as they were written without a change of the batch size.
TrainerState trainer_state(const nlohmann::json& json, const std::string& where, SpikeDetector& spikes);

}  // namespace ssa
