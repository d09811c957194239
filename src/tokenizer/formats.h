// One reader per format of tokenizer files, and what they share.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <unordered_map>

#include "ssa/base/error.h"
#include "ssa/tokenizer/tokenizer.h"

namespace ssa {

/// A Hugging Face tokenizer.json, or Mistral's tekken.json.
Tokenizer::Parts read_tokenizer_json(const std::filesystem::path& path, const TokenizerOptions& options);
/// A directory with GPT-2's vocab.json and merges.txt.
Tokenizer::Parts read_vocab_and_merges(const std::filesystem::path& directory, const TokenizerOptions& options);
/// A tiktoken rank file.
Tokenizer::Parts read_rank_file(const std::filesystem::path& path, const TokenizerOptions& options);

inline constexpr std::int32_t kMaxVocabulary = 1 << 22;  // larger ids are taken for damage

/// An id of a tokenizer's file. Throws Error, with the parts of `token` first, unless it is a whole number from 0 to
/// kMaxVocabulary - 1.
template <class... Token>
std::int32_t checked_id(const nlohmann::json& id, const Token&... token) {
  SSA_CHECK(id.is_number_integer() && id >= 0 && id < kMaxVocabulary, token..., " has id ", id.dump(),
            ", expected 0 to ", kMaxVocabulary - 1);
  return id.get<std::int32_t>();
}

/// The name of the tokenizer in a directory: the name of the directory.
std::string name_of(const std::filesystem::path& directory);
std::filesystem::path directory_of(const std::filesystem::path& file);

/// Adds a special or other added token: an entry of the vocabulary that is also found by its text.
void add_token(Tokenizer::Parts& parts, const AddedToken& token);

/// The bytes of UTF-8 that the tokenizer leaves out of texts because it has neither a token for them nor an unk_token;
/// empty if there are none. Two examples: "0x0a", and "0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08 and 3 more".
std::string omitted_bytes(const Tokenizer::Parts& parts);

/// SentencePiece's sign for a space.
inline constexpr const char* kSpaceMark = "\u2581";

/// Vocabulary and merges of a BPE.
class TokenTable {
 public:
  explicit TokenTable(std::filesystem::path file) : file_(std::move(file)) {}

  /// Throws Error naming the file for an id that is none, or that two tokens have.
  void add_vocab(const nlohmann::json& vocab);
  /// Appends a merge to `vocabulary`; its rank is its position.
  void add_merge(Bpe::Vocabulary& vocabulary, const std::string& left, const std::string& right) const;
  /// Sets the texts and byte ids of `parts` for a byte-level BPE, whose files write tokens in the byte alphabet.
  void fill(Tokenizer::Parts& parts) const;
  /// The same for a SentencePiece BPE with byte fallback, and the ids of characters. Throws Error if it lacks a byte.
  void fill_characters(Tokenizer::Parts& parts) const;

  std::int32_t id(const std::string& token) const;  // -1: none
  const std::unordered_map<std::string, std::int32_t>& ids() const { return ids_; }

 private:
  std::filesystem::path file_;
  std::unordered_map<std::string, std::int32_t> ids_;
};

}  // namespace ssa
