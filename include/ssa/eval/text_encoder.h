// Encodes text to the token ids that lm-evaluation-harness gives to the model: with the special tokens that the
// tokenizer's post-processor adds, and the token that precedes a text without context.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ssa/config/config.h"
#include "ssa/data/dataset.h"
#include "ssa/model/model_config.h"
#include "ssa/tokenizer/tokenizer.h"
#include "ssa/train/model_source.h"

namespace ssa::eval {

using TokenIds = std::vector<std::int32_t>;

/// What a tokenizer is compared with.
struct EncodedModel {
  std::string name;  ///< of the model, for messages
  ModelConfig model;
  std::optional<DatasetInfo> data;  ///< that it was trained on, if it is known and still there
};

/// Throws Error if a run was trained with another tokenizer than the dataset was made with, as far as both are known.
/// Returns a line for the user if the tokenizer files of a Hugging Face directory are not those that the dataset was
/// made with, which may be two forms of one tokenizer; else an empty one.
std::string expect_training_tokenizer(const ModelSource& source, const Dataset& dataset);

/// The tokenizer of a model, as a value of --tokenizer: the model's directory if it has tokenizer files; "bytes" if the
/// dataset.json of the run's data names it or the model has exactly that vocabulary. Otherwise throws UsageError.
std::string find_tokenizer(const ModelSource& source);

/// The tokenizer for train.eval_tasks: train.eval_tokenizer, or bytes for a run on bytes. Otherwise UsageError.
std::string training_tokenizer(const Config& config);

class TextEncoder {
 public:
  /// Throws Error unless the tokenizer fits the model: vocabulary size, end-of-text token and, if the dataset of the
  /// run is still there, the checksum.
  TextEncoder(const std::string& tokenizer, const ModelSource& source);
  TextEncoder(const std::string& tokenizer, const EncodedModel& model);

  /// The ids of valid UTF-8, with the special tokens of the tokenizer's template around them.
  TokenIds encode(std::string_view text);
  /// Without these special tokens.
  TokenIds encode_plain(std::string_view text);

  /// The begin-of-text token of the tokenizer's files; the end-of-text token if they name none; the model's
  /// bos_token_id if there are no files that name special tokens.
  std::int32_t prefix_token() const { return prefix_token_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }

 private:
  Tokenizer tokenizer_;
  Encoder encoder_;
  std::int32_t prefix_token_;
  std::string prefix_text_;
  IdBuffer ids_;
};

}  // namespace ssa::eval
