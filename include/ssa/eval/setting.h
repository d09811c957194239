// The attention used in an evaluation: the model's own, or another mode, budget, block size or RoPE scaling. No weight
// depends on these.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernels/attention/select_blocks/select_blocks.h"
#include "ssa/model/llama.h"
#include "ssa/train/model_source.h"

namespace ssa::eval {

/// Values from the command line that replace the model's own.
struct Overrides {
  std::string mode = "both";                    ///< sparse, full or both
  std::vector<std::int64_t> block_counts = {};  ///< one sparse setting per value; empty = the model's
  std::int64_t block_size = 0;                  ///< 0 = the model's
  /// llama3 RoPE scaling factor; 0 = the model's own scaling. Low and high frequency factors are the model's, else
  /// Llama 3.1's 1 and 4. max_position_embeddings becomes factor x original_max_position_embeddings.
  double rope_scaling = 0;
  /// original_max_position_embeddings of rope_scaling; 0 = the model's own if it has a scaling, else its
  /// max_position_embeddings.
  std::int64_t original_positions = 0;
};

/// One attention configuration of a model.
struct Setting {
  AttentionPath path;  ///< not an aligned path: its two outputs are two settings
  ModelConfig model;
  BlockSelection selection;

  bool sparse() const { return !branches_of(path, model).full; }
  std::string mode() const { return sparse() ? "sparse" : "full"; }
  /// "full", or "sparse 8x16": blocks x tokens per block.
  std::string name() const;
};

/// The settings that `overrides` gives for a model, sparse ones first. UsageError for an unknown mode and for one that
/// the model's method does not have.
std::vector<Setting> settings_of(const ModelSource& source, const Overrides& overrides);

}  // namespace ssa::eval
