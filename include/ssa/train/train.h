// A training run, from a config to a trained model in output_dir.
#pragma once

#include <string>
#include <vector>

#include "ssa/comm/comm.h"
#include "ssa/config/config.h"
#include "ssa/runtime/stream.h"

namespace ssa {

struct TrainOptions {
  std::string resume =
      "auto";  ///< auto: newest complete checkpoint, or a fresh start; none; or a checkpoint's directory
  DeviceKind device = DeviceKind::cpu;
};

/// Trains to the end: kExitDone, or kExitStopped when a signal ended the run after a checkpoint. Throws Error, before
/// anything is opened a UsageError when the device does not serve the model.
int train(const Config& config, const TrainOptions& options, Comm& comm);

/// What --dry-run prints: resolved config, parameter table, a memory plan for each device, rows, steps and tokens.
/// Touches no device, so that a plan for a GPU needs none; reads the dataset if it exists. UsageError when `devices` is
/// a single one that does not support the model.
std::string describe_run(const Config& config, const std::vector<DeviceKind>& devices, int ranks);

}  // namespace ssa
