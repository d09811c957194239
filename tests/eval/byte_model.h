// A Hugging Face directory with a golden case's weights and a byte vocabulary.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "ssa/comm/comm.h"
#include "ssa/config/config.h"
#include "ssa/eval/forward_pass.h"
#include "ssa/eval/text_encoder.h"
#include "ssa/io/huggingface.h"
#include "ssa/train/model_source.h"
#include "support/catch.h"
#include "support/paths.h"
#include "support/temp_dir.h"
#include "support/test_model.h"

namespace ssa::test {

class ByteModel {
 public:
  /// With a vocabulary size other than the golden case's 272, every weight is the same small number.
  explicit ByteModel(std::int64_t vocab_size = 272, std::int64_t eos = 256, const std::string& method = "ssa") {
    const std::filesystem::path golden = ssa::test::source_dir() / "tests/golden/cases/ssa-sparse-stream/model";
    nlohmann::json config = nlohmann::json::parse(ssa::read_file(golden / "config.json"));
    config["vocab_size"] = vocab_size;
    config["bos_token_id"] = eos;
    config["eos_token_id"] = eos;
    config["max_position_embeddings"] = 64;
    config["attention_method"] = method;
    std::filesystem::create_directories(path());
    ssa::test::write_file(path() / "config.json", config.dump());
    if (vocab_size == 272) {
      std::filesystem::copy(golden / "model.safetensors", path() / "model.safetensors");
      return;
    }
    const auto parameters = published_parameters(load_model_config(path() / "config.json"));
    SafetensorsWriter writer(path() / "model.safetensors", parameters);
    for (const TensorSpec& p : parameters)
      writer.append(p.name, std::vector<float>(static_cast<std::size_t>(count_of(p.shape)), 0.01f));
    writer.finish();
  }

  std::filesystem::path path() const { return directory_ / "model"; }
  const std::filesystem::path& directory() const { return directory_.path(); }
  const ModelSource& source() const {
    if (!source_) source_.emplace(path());
    return *source_;
  }

 private:
  TempDir directory_;
  mutable std::optional<ModelSource> source_;
};

/// Random bytes, the same in every call.
inline std::vector<eval::TokenIds> random_rows(std::int64_t rows, std::int64_t tokens) {
  const HostBatch batch = random_batch(rows, tokens, 256, 5);
  std::vector<eval::TokenIds> result;
  for (std::int64_t i = 0; i < rows; ++i)
    result.emplace_back(batch.ids.begin() + i * tokens, batch.ids.begin() + (i + 1) * tokens);
  return result;
}

/// A ByteModel on the CPU, and one rank.
struct LoadedByteModel {
  ByteModel model;
  Stream stream{DeviceKind::cpu};
  eval::LoadedModel loaded{stream, model.source()};
  SingleComm comm;

  explicit LoadedByteModel(const std::string& method = "ssa") : model(272, 256, method) {}
};

}  // namespace ssa::test
