// How a trained model attends while it is evaluated: its trained way, or another budget, block size, rotary scaling.
// All of this is chosen at inference; no weight depends on it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernels/attention/select_blocks/select_blocks.h"
#include "ssa/model/llama.h"
#include "ssa/train/model_source.h"

namespace ssa::eval {

/// What the command line asks for, in place of the model's own values.
struct Overrides {
  std::string mode = "both";                    ///< sparse, full or both
  std::vector<std::int64_t> block_counts = {};  ///< a sparse setting each; empty = the model's
  std::int64_t block_size = 0;                  ///< 0 = the model's
  /// llama3 scaling of the rotary frequencies by this factor; 0 = the model's. The positions it starts from are those
  /// of the model's own scaling, or its max_position_embeddings; low and high frequency factors are the model's, or
  /// Llama 3.1's 1 and 4. max_position_embeddings becomes factor x those positions.
  double rope_scaling = 0;
};

/// One way to attend.
struct Setting {
  AttentionPath path;  ///< full, selected or nsa
  ModelConfig model;
  BlockSelection selection;

  bool sparse() const { return !branches_of(path, model).full; }
  std::string mode() const { return sparse() ? "sparse" : "full"; }
  /// "full", or "sparse 8x16": blocks x tokens of a block.
  std::string name() const;
};

/// The settings that `overrides` asks of a model, sparse ones first. UsageError for a mode that its method cannot run
/// and for an unknown one.
std::vector<Setting> settings_of(const ModelSource& source, const Overrides& overrides);

}  // namespace ssa::eval
