#include "ssa/train/model_source.h"

#include <spdlog/spdlog.h>

#include <optional>
#include <vector>

#include "ssa/base/json_file.h"
#include "ssa/config/config.h"

namespace ssa {
namespace fs = std::filesystem;
namespace {

/// The value that a key of a Hugging Face directory's config.json names; the first of `values` when it is absent.
template <class Value>
Value value_of(const fs::path& config_file, const char* key, std::initializer_list<Value> values) {
  const auto json = read_json_object(config_file);
  if (!json.contains(key)) return *values.begin();
  std::string expected;
  for (const Value value : values) {
    if (json[key] == name_of(value)) return value;
    expected += concat(expected.empty() ? "" : ", ", name_of(value));
  }
  fail(config_file.string(), ": ", key, " is ", json[key].dump(), ", expected one of ", expected);
}

}  // namespace

ModelSource::ModelSource(const fs::path& path) : path_(path) {
  SSA_CHECK(fs::is_directory(path), path.string(),
            ": no such directory, expected a run, a checkpoint or a Hugging Face directory");
  if (fs::is_directory(path / "checkpoints")) {
    std::vector<CheckpointInfo> skipped;
    const std::optional<CheckpointInfo> newest = newest_checkpoint(path, skipped);
    for (const CheckpointInfo& bad : skipped) spdlog::warn("skipping {}: {}", bad.path.string(), bad.problem);
    SSA_CHECK(newest, path.string(), ": no complete checkpoint");
    path_ = newest->path;
  }
  if (fs::exists(path_ / "manifest.json")) {
    checkpoint_ = std::make_unique<CheckpointReader>(path_);
    const Config config = parse_config(checkpoint_->config(), (path_ / "config.json").string());
    config_ = config.model;
    method_ = config.attention.method;
    selection_ = config.attention.selection;
    return;
  }
  SSA_CHECK(!weights_file(path_).empty(), path_.string(),
            ": neither a run, nor a checkpoint, nor a Hugging Face directory");
  config_ = load_model_config(path_ / "config.json");
  // The published checkpoints name neither.
  method_ = value_of(path_ / "config.json", "attention_method", kMethods);
  selection_ = value_of(path_ / "config.json", "selection", {BlockSelection::exact, BlockSelection::reference});
  weights_ = std::make_unique<HuggingFaceWeights>(path_, published_parameters(config_), config_.tie_word_embeddings);
}

void ModelSource::read(const TensorSpec& parameter, std::span<float> out, std::int64_t first) const {
  if (checkpoint_)
    checkpoint_->read_weight(parameter, out, first);
  else
    weights_->read(parameter, out, first);
}

}  // namespace ssa
