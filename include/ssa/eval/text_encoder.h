// From text to the token ids that lm-evaluation-harness would give the model: the tokenizer, the special tokens its
// post-processor adds, and the token that stands before a text without context.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "ssa/tokenizer/tokenizer.h"
#include "ssa/train/model_source.h"

namespace ssa::eval {

using TokenIds = std::vector<std::int32_t>;

/// The tokenizer of a model, as ssa_tokenize's --tokenizer takes it: the files of a Hugging Face directory; "bytes" when
/// the dataset.json of the run's data names it, or the model has just its vocabulary. UsageError when none is known.
std::string find_tokenizer(const ModelSource& source);

class TextEncoder {
 public:
  /// Error unless the tokenizer is the model's: its vocabulary and end-of-text token, and, where the dataset that the
  /// run learned from is still there, its checksum.
  TextEncoder(const std::string& tokenizer, const ModelSource& source);

  /// Ids of valid UTF-8, the special tokens of the tokenizer's template around them.
  TokenIds encode(std::string_view text);
  /// Without those.
  TokenIds encode_plain(std::string_view text);

  /// The begin-of-text token that tokenizer_config.json or special_tokens_map.json names; the end-of-text token when
  /// they name none; the model's bos_token_id when neither file is there.
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
