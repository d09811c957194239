// Writes a tokenizer as the files of a Hugging Face model directory, for which AutoTokenizer gives the same ids.
#pragma once

#include <map>
#include <string>

#include "ssa/tokenizer/tokenizer.h"

namespace ssa {

/// File name -> content. `parts` is what read_tokenizer returned for `path`. A tokenizer.json is copied, together with
/// the tokenizer_config.json and special_tokens_map.json next to it. For another tokenizer a tokenizer.json without a
/// post-processor is made, because datasets have no token around a text either. tokenizer_config.json gets
/// tokenizer_class and model_input_names if it lacks them. The end of text of "bytes" is written as <|endoftext|>.
std::map<std::string, std::string> hugging_face_tokenizer(const std::string& path, const Tokenizer::Parts& parts);

}  // namespace ssa
