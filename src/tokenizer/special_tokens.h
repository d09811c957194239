// The files next to a tokenizer that name its special tokens: tokenizer_config.json and special_tokens_map.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <unordered_map>

#include "ssa/tokenizer/tokenizer.h"

namespace ssa {

/// The ids of a tokenizer's vocabulary by the texts of the tokens, without added tokens.
using VocabularyIds = std::unordered_map<std::string, std::int32_t>;

/// Adds the tokens that tokenizer_config.json's added_tokens_decoder in `directory` lists, or without this key
/// added_tokens.json. Of the latter those are special that the two files name. With `keep_known`, added_tokens.json,
/// which has only ids, changes nothing about tokens that `parts` has. Throws Error if a token has another id or text in
/// the vocabulary, and for a token of added_tokens.json that transformers ignores because of added_tokens_decoder.
void add_side_tokens(Tokenizer::Parts& parts, const std::filesystem::path& directory, const VocabularyIds& ids,
                     bool keep_known);

/// Adds the special tokens that these two files in `directory` name and that the vocabulary has, with the flags that
/// the files give them. Those of `parts` become special and keep their flags. `pad_token` is the one in the padding of
/// tokenizer.json, or null; it counts if the two files name none. Throws Error naming file, key and token if a token is
/// neither in `parts` nor in the vocabulary: transformers adds it with an id of its own.
void add_named_tokens(Tokenizer::Parts& parts, const std::filesystem::path& directory, const VocabularyIds& ids,
                      const nlohmann::json& pad_token = {});

/// Sets the begin-of-text and end-of-text tokens of `parts` from these two files in `directory`. The end-of-text token
/// is `wanted_eos` if that is not empty; otherwise the one that the files name or, if they name none, one with a usual
/// name. Throws UsageError if `parts` has no such token, or if the two files name different ones.
void set_special_tokens(Tokenizer::Parts& parts, const std::filesystem::path& directory, const std::string& wanted_eos);

}  // namespace ssa
