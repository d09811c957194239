// Derives the options of each part of a run from the config, for training and for the dry run.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "ssa/comm/watchdog.h"
#include "ssa/config/config.h"
#include "ssa/data/batch_plan.h"
#include "ssa/data/row_loader.h"
#include "ssa/train/model_state.h"

namespace ssa {

/// `min_document_tokens`: of the dataset.
RowOptions row_options(const Config& config, std::int64_t min_document_tokens);

/// Opens a dataset and checks that its tokens fit the model.
Dataset open_dataset(const std::string& path, const Config& config);

BatchPlan plan_batches(const Config& config, const std::vector<BatchPlan::Source>& sources, int ranks);

/// A line per batch size: from which step on, rows, micro-batches per rank and tokens per step.
std::vector<std::string> batch_size_lines(const BatchPlan& plan, std::int64_t max_length);

/// The last optimizer step of a run that has done `step` steps and is at `position`: max_steps if set, else the end of
/// num_train_epochs.
std::int64_t total_steps(const TrainConfig& train, const BatchPlan& plan, std::int64_t step = 0,
                         const DataPosition& position = {});

/// The attention of held-out losses and tasks, with what their keys in metrics.jsonl have for it: for ssa "_sparse" and
/// "_full", else "" and the method's own.
std::vector<std::pair<std::string, AttentionPath>> evaluation_paths(const Config& config);

/// The time-outs after which the watchdog ends the job.
PhaseTimeouts phase_timeouts(const DistributedConfig& config);

/// UsageError if distributed.shard_size does not divide the number of ranks.
StateShape state_shape(const Config& config, DeviceKind device, int ranks);

}  // namespace ssa
