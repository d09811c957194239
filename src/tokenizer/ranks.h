// What tiktoken's rank files and Mistral's tekken.json share: a byte-level BPE given by its tokens and their ranks.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>

#include "ssa/tokenizer/tokenizer.h"

namespace ssa {

/// Padding may be missing. Empty for text that is not base64.
std::string base64_decode(std::string_view text);

/// Sets texts and vocabulary of `parts`: the id of a token, given by its bytes, is its rank plus `first_id`. Ranks may
/// have gaps. Throws Error if a byte has no token.
void set_ranks(Tokenizer::Parts& parts, const std::unordered_map<std::string, std::int32_t>& ranks,
               std::int32_t first_id = 0);

}  // namespace ssa
