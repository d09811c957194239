// The files next to a tokenizer that name its special tokens: tokenizer_config.json and special_tokens_map.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <unordered_map>

#include "ssa/tokenizer/tokenizer.h"

namespace ssa {

/// Adds the tokens that added_tokens.json and tokenizer_config.json's added_tokens_decoder in `directory` name. Those
/// in special_tokens_map.json are special. With `keep_known`, added_tokens.json, which has only ids, changes nothing
/// about tokens that `parts` has. Throws Error if a token has another id or text in the vocabulary.
void add_side_tokens(Tokenizer::Parts& parts, const std::filesystem::path& directory, bool keep_known);

/// Adds the special tokens that these two files in `directory` name and that `vocabulary`, text to id, has. Throws
/// Error if an additional special token is neither in `parts` nor there: transformers adds it with an id of its own.
void add_named_tokens(Tokenizer::Parts& parts, const std::filesystem::path& directory,
                      const std::unordered_map<std::string, std::int32_t>& vocabulary);

/// Sets the begin-of-text and end-of-text tokens of `parts` from these two files in `directory`. The end-of-text token
/// is `wanted_eos` if that is not empty; otherwise the one that the files name or, if they name none, one with a usual
/// name. Throws UsageError if `parts` has no such token.
void set_special_tokens(Tokenizer::Parts& parts, const std::filesystem::path& directory, const std::string& wanted_eos);

}  // namespace ssa
