// The tokenizer as files of a Hugging Face model directory, from which AutoTokenizer gives the same ids.
#pragma once

#include <map>
#include <string>

#include "ssa/tokenizer/tokenizer.h"

namespace ssa {

/// File name -> content: tokenizer.json, tokenizer_config.json and special_tokens_map.json. `parts` is what
/// read_tokenizer gave for `path`. A tokenizer.json is taken as it is, with the other two where they stand beside it
/// (tokenizer_config.json gets tokenizer_class and model_input_names when it lacks them); of any other tokenizer one is
/// made, without a post-processor: as in our datasets no token is added. The end of text of "bytes", which has no text
/// of its own, is called <|endoftext|>.
std::map<std::string, std::string> hugging_face_tokenizer(const std::string& path, const Tokenizer::Parts& parts);

}  // namespace ssa
