// What a run starts from: a Hugging Face directory of a gated model or of a dense LLaMA, a checkpoint, or a run.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "ssa/config/config.h"
#include "ssa/config/hugging_face_config.h"
#include "ssa/io/checkpoint.h"
#include "ssa/io/huggingface.h"
#include "ssa/model/model_config.h"
#include "ssa/train/trainer_state.h"

namespace ssa {

/// The gates that a dense LLaMA gets for a method. Appends a line that says so to `notes`.
AddedGates gates_for_dense(const std::filesystem::path& directory, Method method, const ModelConfig& model,
                           std::vector<std::string>& notes);

/// What the config of a checkpoint says of its model.
HuggingFaceConfig model_of(const CheckpointReader& checkpoint);

/// The checkpoint that config.init_from names; nullopt if it is a Hugging Face directory, or null. Logs damaged
/// checkpoints of a run. Throws Error if it does not exist, and UsageError if init_state wants more than weights of a
/// Hugging Face directory.
std::optional<std::filesystem::path> init_checkpoint(const Config& config);

/// What is taken from a checkpoint and what is not, in one line.
std::string what_is_taken(InitState state, const TrainerState& saved);

/// Compares the model of a checkpoint with the run's, as open_init_from() does. Throws Error for tensors that are not
/// the model's.
void check_init_checkpoint(const Config& config, const CheckpointReader& checkpoint, std::vector<std::string>& notes);

/// Opens config.init_from, a Hugging Face directory, and compares its config.json with the run's config. Appends to
/// `notes`, for the log, what differs and is used as the run's config says. UsageError if the heads differ, if
/// init_from is another architecture, and if its files name no method or selection, or others than the defaults, while
/// the config has no attention.method or attention.selection. Throws Error for tensors that are not the model's.
HuggingFaceWeights open_init_from(const Config& config, std::vector<std::string>& notes);

/// Throws UsageError if the checkpoint of config.init_from was trained with another tokenizer than the training data
/// was made with, as far as both are known (model_tokenizer.h). Appends a line to `notes` instead where `allowed`, the
/// keys of --allow-change, has init_from, and for a Hugging Face directory: its files may be another form of the
/// tokenizer.
void check_init_tokenizer(const Config& config, const std::filesystem::path& from,
                          const std::vector<std::string>& allowed, std::vector<std::string>& notes);

}  // namespace ssa
