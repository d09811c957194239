// A training run, from a config to a trained model in output_dir.
#pragma once

#include <string>

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

/// What --dry-run prints: resolved config, parameter table, memory plan, rows, steps and tokens. Touches no device; the
/// dataset is looked at if it is there. UsageError when the device does not serve the model.
std::string describe_run(const Config& config, DeviceKind device, int ranks);

}  // namespace ssa
