// Mistral's tekken.json.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "ssa/tokenizer/tokenizer.h"

namespace ssa {

/// Whether a JSON file is a tekken.json: an object with "config" and a list "vocab".
bool is_tekken(const nlohmann::json& file);

/// The tokenizer of the file `path` with the content `text`, parsed: ids as mistral-common's Tekkenizer gives them.
/// Throws Error naming the file and what it does not support.
Tokenizer::Parts read_tekken(const nlohmann::json& file, const std::string& text, const std::filesystem::path& path,
                             const TokenizerOptions& options);

}  // namespace ssa
