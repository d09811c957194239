// Writes a tokenizer as the files of a Hugging Face model directory, for which AutoTokenizer gives the same ids.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "ssa/tokenizer/tokenizer.h"

namespace ssa {

struct TokenizerFiles {
  std::map<std::string, std::string> files;  ///< file name -> content
  std::vector<std::string> notes;            ///< messages for the user: what differs from the files of the tokenizer
};

/// `parts` is what read_tokenizer returned for `path`. A tokenizer.json is copied, together with the
/// tokenizer_config.json, special_tokens_map.json and added_tokens.json next to it. For another tokenizer a
/// tokenizer.json without a post-processor is made, because datasets have no token around a text either. A
/// chat_template.jinja is copied in both cases. tokenizer_config.json gets the tokenizer_class for which transformers
/// follows tokenizer.json, and model_input_names and eos_token if it lacks them. It loses auto_map. Next to a
/// tokenizer.json that was made, it gets the checksum of what it was made from. The end of text of "bytes" is
/// written as <|endoftext|>.
TokenizerFiles hugging_face_tokenizer(const std::string& path, const Tokenizer::Parts& parts);

/// A tokenizer in a model directory.
struct TokenizerChecksum {
  std::filesystem::path file;
  std::string sha256;  ///< Tokenizer::sha256()
};

/// Of every tokenizer in the files of a Hugging Face model directory: tokenizer.json, vocab.json with merges.txt,
/// tekken.json, tokenizer.model, and last what hugging_face_tokenizer() made tokenizer.json from. Reads no vocabulary.
/// Git LFS pointers and SentencePiece models are left out. Throws Error for a tokenizer_config.json that is no JSON
/// object.
std::vector<TokenizerChecksum> tokenizer_checksums(const std::filesystem::path& directory);

}  // namespace ssa
