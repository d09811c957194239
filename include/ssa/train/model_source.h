// A trained model on disk: a checkpoint, a run (its newest checkpoint), or a Hugging Face directory.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include "kernels/attention/select_blocks/select_blocks.h"
#include "ssa/io/checkpoint.h"
#include "ssa/io/huggingface.h"
#include "ssa/model/model_config.h"

namespace ssa {

class ModelSource {
 public:
  /// Throws an Error that names what is missing from `path`.
  explicit ModelSource(const std::filesystem::path& path);

  const ModelConfig& config() const { return config_; }
  Method method() const { return method_; }
  BlockSelection selection() const { return selection_; }
  /// The directory that is read: for a run, its checkpoint's.
  const std::filesystem::path& path() const { return path_; }

  /// Elements [first, first + out.size()) of a parameter.
  void read(const TensorSpec& parameter, std::span<float> out, std::int64_t first) const;

 private:
  std::filesystem::path path_;
  ModelConfig config_;
  Method method_ = Method::ssa;
  BlockSelection selection_ = BlockSelection::exact;
  std::unique_ptr<CheckpointReader> checkpoint_;
  std::unique_ptr<HuggingFaceWeights> weights_;
};

}  // namespace ssa
