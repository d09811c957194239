// Reads config.json of a Hugging Face directory with a LLaMA model or a model of the published SSA code, and writes the
// JSON files of an export.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/attention/select_blocks/select_blocks.h"
#include "ssa/model/model_config.h"

namespace ssa {

/// A value, and how it is known, for the log: "attention_method in m/config.json".
template <class Value>
struct Known {
  Value value;
  std::string reason;
  bool stated = false;  ///< by the file itself; otherwise it follows from other facts
};

/// What a config.json says. Keys that it lacks have the defaults of transformers' LlamaConfig. UsageError for another
/// architecture, by the name of the key that makes it one.
struct HuggingFaceConfig {
  ModelConfig model;
  bool dense = false;  ///< LlamaForCausalLM: the weights have no gates (g_proj)
  /// nullopt: the files do not say. The published ones name neither; their modeling code tells which they are.
  std::optional<Known<Method>> method;
  std::optional<Known<BlockSelection>> selection;
  std::vector<std::string> notes;  ///< for the log: keys with a default, and keys that have no effect here
};

/// Error if the file cannot be read, UsageError if it is not a config.json of LLaMA's architecture.
HuggingFaceConfig read_hugging_face_config(const std::filesystem::path& file);

/// config.json: the keys of `model`, model_type llama-nsa, the classes of the exported Python files, the method, the
/// attention used at inference (full for method full, else sparse), and the constants of the architecture.
/// `torch_dtype` is the dtype of the weights: "float32" or "bfloat16".
std::string hugging_face_config_json(const ModelConfig& model, Method method, BlockSelection selection,
                                     std::string_view torch_dtype);

/// generation_config.json: token ids and greedy decoding. The padding token is the end-of-text token.
std::string hugging_face_generation_json(const ModelConfig& model);

}  // namespace ssa
