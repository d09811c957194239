// Writes a Hugging Face directory with a small model of random weights, for the bytes tokenizer.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "ssa/config/config.h"
#include "ssa/config/hugging_face_config.h"
#include "ssa/io/huggingface.h"
#include "ssa/model/param_table.h"
#include "support/test_model.h"

namespace ssa::test {

/// small_model (test_model.h) with the vocabulary of the bytes tokenizer.
inline ModelConfig small_bytes_model() {
  ModelConfig c = small_model(257);
  c.bos_token_id = c.eos_token_id = 256;
  return c;
}

inline void write_random_model(const std::filesystem::path& directory, const ModelConfig& config, Method method,
                               std::uint64_t seed) {
  const ParamTable table(config);
  const std::string json = hugging_face_config_json(config, method, BlockSelection::exact, "float32");
  HuggingFaceWriter writer(directory, {{"config.json", json}}, published_parameters(config));
  for (std::size_t i = 0; i < table.params().size(); ++i) {
    std::vector<float> values(static_cast<std::size_t>(table.params()[i].count()));
    initialize_param(table, config, i, seed, values, 0);
    writer.append(table.params()[i].name, values);
  }
  writer.finish();
}

}  // namespace ssa::test
