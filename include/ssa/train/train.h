// A training run, from a config to a trained model in output_dir.
#pragma once

#include <string>
#include <vector>

#include "ssa/comm/comm.h"
#include "ssa/config/config.h"
#include "ssa/runtime/stream.h"

namespace ssa {

struct TrainOptions {
  /// "auto" (the newest complete checkpoint, or a fresh start), "none", or a checkpoint's directory.
  std::string resume = "auto";
  /// Keys that may differ from the checkpoint's config although they are AtResume::refused.
  std::vector<std::string> allowed_changes = {};
  DeviceKind device = DeviceKind::cpu;
};

/// Trains to the end. Returns kExitDone, or kExitStopped when a signal ended the run after a checkpoint. Throws Error;
/// a UsageError before anything is opened when the device does not support the model.
int train(const Config& config, const TrainOptions& options, Comm& comm);

}  // namespace ssa
