// Which steps a tokenizer's splitter has: chosen by the "pre_tokenizer" of a tokenizer.json, or by name for the formats
// that do not store one.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "ssa/tokenizer/tokenizer.h"

namespace ssa {

/// The splitter of the "pre_tokenizer" entry of a tokenizer.json: ByteLevel, Split, Digits, or a Sequence of them that
/// ends with ByteLevel; with `byte_fallback`, of a SentencePiece BPE: null, Split, Digits, Metaspace. Throws Error for
/// anything else.
Splitter splitter_of(const nlohmann::json& pre_tokenizer, bool byte_fallback = false);

/// The names of well-known splitters.
inline constexpr const char* kPreTokenizerNames = "gpt2, smollm2, llama3, qwen2, o200k, tekken or deepseek";

/// Gives `parts` the splitter of a well-known tokenizer, and the normalizer that belongs to it, or for "regex:PATTERN"
/// that of a pattern. Throws UsageError for another name.
void set_pre_tokenizer(Tokenizer::Parts& parts, const std::string& name);

/// The "pre_tokenizer" entry from which splitter_of gives the splitter of that name. An empty name is ByteLevel alone,
/// which does not split.
nlohmann::ordered_json pre_tokenizer_entry(const std::string& name);

}  // namespace ssa
