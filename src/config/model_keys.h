// From a Hugging Face config.json to the keys of ModelConfig. The file may be of any version of transformers.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "src/config/config_reader.h"
#include "ssa/config/hugging_face_config.h"

namespace ssa::config_fields {

struct ModelKeys {
  ModelConfig defaults;            ///< of the keys that the object lacks
  std::vector<std::string> notes;  ///< for the log
};

/// Converts the object to the keys of ModelConfig. An object from a file, or with a model_type, has the defaults of
/// transformers' LlamaConfig; an object in a run's config has those of docs/config.md. Fails by name for a key that
/// means another architecture.
ModelKeys settle_model(Json& model, const Origin& origin);

/// Sets dense, method and selection from the object and the Python file next to it.
void read_attention(const Json& object, const std::filesystem::path& file, const Origin& origin,
                    HuggingFaceConfig& config);

}  // namespace ssa::config_fields
