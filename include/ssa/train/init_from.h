// The weights that a run starts from: a Hugging Face directory of a gated model or of a dense LLaMA.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "ssa/config/config.h"
#include "ssa/io/huggingface.h"
#include "ssa/model/model_config.h"

namespace ssa {

/// The gates that a dense LLaMA gets for a method. Appends a line that says so to `notes`.
AddedGates gates_for_dense(const std::filesystem::path& directory, Method method, const ModelConfig& model,
                           std::vector<std::string>& notes);

/// Opens config.init_from and compares its config.json with the run's config. Appends to `notes`, for the log, what
/// differs and is used as the run's config says. UsageError if the heads differ, if init_from is another architecture,
/// and if its files name no method or selection, or others than the defaults, while the config has no attention.method
/// or attention.selection. Throws Error for tensors that are not the model's.
HuggingFaceWeights open_init_from(const Config& config, std::vector<std::string>& notes);

}  // namespace ssa
