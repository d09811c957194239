// A BPE tokenizer, byte-level or SentencePiece's with byte fallback, with the ids of Hugging Face tokenizers (without
// the tokens that the post-processor adds around a text) and of tiktoken. Threads share one; each encodes with its own
// Encoder.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ssa/tokenizer/added_tokens.h"
#include "ssa/tokenizer/bpe.h"
#include "ssa/tokenizer/splitter.h"

namespace ssa {

struct TokenizerOptions {
  std::string eos_token = {};  // the text of the end-of-text token; empty = the one that the files name
  // For vocab.json + merges.txt (default: as the class in tokenizer_config.json, or gpt2) and for rank files that are
  // not published ones: a name as gpt2 or llama3, or regex:PATTERN.
  std::string pre_tokenizer = {};
};

class Tokenizer {
 public:
  /// The tokens that a tokenizer.json's post-processor puts around a text.
  struct Template {
    std::vector<std::int32_t> before = {}, after = {};
  };

  /// The contents of a tokenizer's files.
  struct Parts {
    std::string name, sha256;
    std::vector<std::string> texts = {};  // by id: the bytes of the token
    std::vector<AddedToken> added = {};
    Bpe::Vocabulary vocabulary = {};
    Splitter splitter = {};
    std::string pre_tokenizer = {};  // the splitter's name as in TokenizerOptions; empty: none, or a tokenizer.json's
    bool nfc = false;
    // What becomes of a text between added tokens, after nfc: a prefix, and replacements.
    std::string prepend = {};
    std::vector<std::pair<std::string, std::string>> replace = {};
    bool drop_first_space = false;  // of a decoded text
    std::int32_t eos_token_id = -1;
    // The text of the begin-of-text token; empty if the files next to the tokenizer name none, nullopt without files.
    std::optional<std::string> bos_token = {};
    Template text_template = {};
  };

  explicit Tokenizer(Parts parts);

  const std::string& name() const { return parts_.name; }
  /// The SHA-256 of the tokenizer's file, or of its files one after the other: 64 hexadecimal digits.
  const std::string& sha256() const { return parts_.sha256; }
  std::int32_t vocab_size() const { return static_cast<std::int32_t>(parts_.texts.size()); }
  /// Whether ids depend on properties of characters, in the version of unicode_version().
  bool depends_on_unicode() const { return !parts_.splitter.empty() || parts_.nfc; }
  std::int32_t eos_token_id() const { return parts_.eos_token_id; }
  const std::optional<std::string>& bos_token() const { return parts_.bos_token; }
  const Template& text_template() const { return parts_.text_template; }

  /// The bytes of the ids, added tokens included. Throws Error for an id outside the vocabulary.
  std::string decode(std::span<const std::int32_t> ids) const;
  /// Whether the id is an added token that its file calls special, or the end-of-text token.
  bool is_special(std::int32_t id) const;

 private:
  friend class Encoder;

  bool normalizes() const { return parts_.nfc || !parts_.prepend.empty() || !parts_.replace.empty(); }
  /// The normal form of `text`: a view of it, or of `buffer`.
  std::string_view normalized(std::string_view text, std::string& buffer) const;

  Parts parts_;
  AddedTokens raw_, normalized_;
  Bpe bpe_;
};

/// Reads "bytes" (the 256 bytes and an end-of-text token), a Hugging Face tokenizer.json, Mistral's tekken.json, a
/// tiktoken rank file, or a directory with one of them (tokenizer.json, tekken.json, tokenizer.model) or with
/// vocab.json and merges.txt. Throws Error naming the file and the cause.
Tokenizer::Parts read_tokenizer(const std::string& path, const TokenizerOptions& options = {});

/// The tokenizer of what read_tokenizer reads. A warning on stderr names the bytes that it leaves out of texts.
Tokenizer load_tokenizer(const std::string& path, const TokenizerOptions& options = {});

/// Encodes for one thread. Repeated pre-tokens come from a cache of fixed size (4 MiB).
class Encoder {
 public:
  explicit Encoder(const Tokenizer& tokenizer);

  /// Appends the ids of `text`, which must be valid UTF-8. With `special_as_text` the texts of special
  /// tokens are encoded like any other text.
  void encode(std::string_view text, IdBuffer& out, bool special_as_text = false);

 private:
  // One cache line. Pre-tokens of up to 24 bytes and 9 ids are kept.
  struct alignas(64) Slot {
    std::uint64_t key[3];
    std::uint8_t length, count;  // length 0: empty
    std::int32_t ids[9];
  };
  static_assert(sizeof(Slot) == 64);
  static constexpr std::size_t kSlots = 1 << 16;

  void encode_gap(std::string_view text, IdBuffer& out, bool at_start);
  void encode_piece(std::string_view piece, IdBuffer& out);

  const Tokenizer& tokenizer_;
  bool cached_;
  std::vector<Slot> cache_;
  Bpe::Scratch scratch_;
  std::string normal_form_;
};

}  // namespace ssa
