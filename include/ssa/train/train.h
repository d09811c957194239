// A training run, from a config to a trained model in output_dir.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "ssa/comm/comm.h"
#include "ssa/config/config.h"
#include "ssa/model/param_table.h"
#include "ssa/runtime/stream.h"
#include "ssa/train/run_log.h"

namespace ssa {

/// The weights of a run between two steps.
struct TrainedWeights {
  Stream& stream;
  Comm& comm;
  const ParamTable& table;
  Tensor weights;  ///< as the ops read them, whole on every rank
};

/// train.eval_tasks (ssa/eval/training_tasks.h, a floor above).
struct TaskEvaluation {
  std::vector<std::string> lines;  ///< for the log: what is evaluated
  /// Scores by key in metrics.jsonl, the same on every rank. nullopt if `stop`, a collective, returned true.
  std::function<std::optional<EvalLosses>(const TrainedWeights&, const std::function<bool()>& stop)> run;
};

struct TrainOptions {
  /// "auto" (the newest complete checkpoint, or a fresh start), "none", or a checkpoint's directory.
  std::string resume = "auto";
  /// Keys that may differ from the checkpoint's config although they are AtResume::refused.
  std::vector<std::string> allowed_changes = {};
  DeviceKind device = DeviceKind::cpu;
  TaskEvaluation tasks = {};
};

/// Trains to the end. Returns kExitDone, or kExitStopped when a signal ended the run after a checkpoint. Throws Error;
/// a UsageError before anything is opened when the device does not support the model.
int train(const Config& config, const TrainOptions& options, Comm& comm);

}  // namespace ssa
