#include "ssa/train/model_source.h"

#include <spdlog/spdlog.h>

#include <optional>
#include <vector>

#include "ssa/base/file.h"
#include "ssa/config/config.h"
#include "ssa/config/hugging_face_config.h"
#include "ssa/train/init_from.h"

namespace ssa {
namespace fs = std::filesystem;
namespace {

/// The value that the files state, else that of the option, else what follows from the files.
template <class Value>
Value decide(const char* what, const char* option, const fs::path& path, const std::optional<Known<Value>>& known,
             const std::optional<Value>& asked, std::vector<std::string>& notes) {
  if (known && known->stated && asked && *asked != known->value)
    fail_usage(option, " ", name_of(*asked), ": ", path.string(), " is a model of ", what, " ", name_of(known->value),
               " (", known->reason, "); expected ", name_of(known->value), ", or no ", option);
  if (asked) {
    if (known && *asked != known->value)
      notes.push_back(concat(what, " ", name_of(*asked), " as ", option, " says, not ", name_of(known->value), ": ",
                             known->reason));
    return *asked;
  }
  if (!known)
    fail_usage(path.string(), ": config.json names no ", what, ", as in the published checkpoints; expected ", option);
  if (!known->stated) notes.push_back(concat(what, " ", name_of(known->value), ": ", known->reason));
  return known->value;
}

}  // namespace

ModelSource::ModelSource(const fs::path& path, const ModelOptions& options) : path_(path) {
  SSA_CHECK(fs::is_directory(path), path.string(),
            ": no such directory, expected a run, a checkpoint or a Hugging Face directory");
  std::vector<CheckpointInfo> skipped;
  const std::optional<fs::path> checkpoint = checkpoint_at(path, skipped);
  for (const CheckpointInfo& bad : skipped) spdlog::warn("skipping {}: {}", bad.path.string(), bad.problem);
  if (checkpoint) path_ = *checkpoint;
  const fs::path file = path_ / "config.json";
  HuggingFaceConfig known;
  if (checkpoint) {
    checkpoint_ = std::make_unique<CheckpointReader>(path_);
    known = model_of(*checkpoint_);
    document_mask_ = parse_config(checkpoint_->config(), file.string()).data.document_mask;
  } else {
    SSA_CHECK(has_weights(path_) || is_present(file), path_.string(),
              ": neither a run, nor a checkpoint, nor a Hugging Face directory");
    weights_ = std::make_unique<HuggingFaceWeights>(path_);
    known = read_hugging_face_config(file);
  }
  config_ = known.model;
  for (const std::string& note : known.notes) notes_.push_back(concat(file.string(), ": ", note));
  method_ = decide("attention method", "--method", path_, known.method, options.method, notes_);
  selection_ = decide("selection", "--selection", path_, known.selection, options.selection, notes_);
  if (checkpoint) return;
  if (!known.method && method_ != Method::nsa && config_.window_size > 0)
    notes_.push_back(
        concat(file.string(), ": window_size ", config_.window_size, " has no effect: only nsa has a window"));
  std::optional<AddedGates> gates;
  if (known.dense) gates = gates_for_dense(path_, method_, config_, notes_);
  weights_->check(config_, gates);
}

void ModelSource::read(const TensorSpec& parameter, std::span<float> out, std::int64_t first) const {
  if (checkpoint_)
    checkpoint_->read_weight(parameter, out, first);
  else
    weights_->read(parameter, out, first);
  check_finite(concat(path_.string(), ": tensor ", parameter.name), out, first);
}

}  // namespace ssa
