// The text of --dry-run.
#pragma once

#include <string>
#include <vector>

#include "ssa/config/config.h"
#include "ssa/runtime/stream.h"

namespace ssa {

/// Resolved config, parameter table, a memory plan for each device, rows, steps and tokens. Touches no device, so that
/// a plan for a GPU needs none; reads the datasets that exist and names the others. UsageError when `devices` is a
/// single one that does not support the model, and for a checkpoint of another tokenizer than the data's, unless
/// `allowed_changes` has init_from.
std::string describe_run(const Config& config, const std::vector<DeviceKind>& devices, int ranks,
                         const std::vector<std::string>& allowed_changes = {});

}  // namespace ssa
