// A trained model on disk: a checkpoint, a run (its newest checkpoint), or a Hugging Face directory.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/attention/select_blocks/select_blocks.h"
#include "ssa/io/checkpoint.h"
#include "ssa/io/huggingface.h"
#include "ssa/model/model_config.h"

namespace ssa {

/// What the user says of a model whose files do not say it.
struct ModelOptions {
  std::optional<Method> method;
  std::optional<BlockSelection> selection;
};

class ModelSource {
 public:
  /// Throws an Error that names what is missing from `path`. A Hugging Face directory that names no method or
  /// selection, as the published ones, needs `options`, unless its modeling code tells them; other values than those in
  /// the files are refused. A dense LLaMA directory gets gates (AddedGates).
  explicit ModelSource(const std::filesystem::path& path, const ModelOptions& options = {});

  const ModelConfig& config() const { return config_; }
  Method method() const { return method_; }
  BlockSelection selection() const { return selection_; }
  bool document_mask() const { return document_mask_; }  ///< data.document_mask of a run; false of other directories
  /// The directory that is read: for a run, its checkpoint's.
  const std::filesystem::path& path() const { return path_; }

  /// For the user: how method and selection are known if the files do not state them, and what of config.json was
  /// missing or has no effect.
  const std::vector<std::string>& notes() const { return notes_; }

  /// Elements [first, first + out.size()) of a parameter. Throws if a value is not finite.
  void read(const TensorSpec& parameter, std::span<float> out, std::int64_t first) const;

 private:
  std::filesystem::path path_;
  ModelConfig config_;
  Method method_ = Method::ssa;
  BlockSelection selection_ = BlockSelection::exact;
  bool document_mask_ = false;
  std::vector<std::string> notes_;
  std::unique_ptr<CheckpointReader> checkpoint_;
  std::unique_ptr<HuggingFaceWeights> weights_;
};

}  // namespace ssa
