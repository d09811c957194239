// The added tokens of a Hugging Face tokenizer: texts that are found in the input before it is split into pre-tokens.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ssa/tokenizer/unicode.h"

namespace ssa {

struct AddedToken {
  std::string content;
  std::int32_t id = -1;
  bool special = false;      // not searched for when special tokens are read as text
  bool normalized = false;   // searched for after normalization
  bool single_word = false;  // only where no word character is next to it
  bool lstrip = false;       // includes the white space before it
  bool rstrip = false;       // includes the white space after it
};

/// Finds the leftmost-longest matches of a set of texts.
class AddedTokens {
 public:
  AddedTokens() : starts_(1 << 16, false), nodes_(1) {}

  void add(const AddedToken& token);

  /// Cuts `text` at its added tokens, in order: calls match(id) for each and gap(string_view) for the text between
  /// them, which is never empty.
  template <class Gap, class Match>
  void split(std::string_view text, bool special_as_text, Gap&& gap, Match&& match) const {
    std::size_t done = 0;  // the text before is done
    std::size_t from = 0;
    while (true) {
      const Found found = find(text, from);
      if (found.token < 0) break;
      from = found.end;
      const AddedToken& token = tokens_[static_cast<std::size_t>(found.token)];
      if (special_as_text && token.special) continue;
      if (token.single_word && (word_before(text, found.begin) || word_after(text, found.end))) continue;
      std::size_t begin = found.begin, end = found.end;
      if (token.lstrip) begin = std::max(done, before_space(text, begin));
      if (token.rstrip) end = after_space(text, end);
      if (begin > done) gap(text.substr(done, begin - done));
      match(token.id);
      done = end;
    }
    if (done < text.size()) gap(text.substr(done));
  }

 private:
  struct Found {
    int token;  // -1: none
    std::size_t begin, end;
  };
  struct Node {
    int token = -1;
    std::vector<std::pair<unsigned char, int>> children;
  };

  Found find(std::string_view text, std::size_t from) const;
  static bool word_before(std::string_view text, std::size_t at);
  static bool word_after(std::string_view text, std::size_t at);
  static std::size_t before_space(std::string_view text, std::size_t at);
  static std::size_t after_space(std::string_view text, std::size_t at);
  int child(int node, unsigned char byte) const;

  std::vector<AddedToken> tokens_;
  std::vector<bool> starts_;  // [first byte << 8 | second byte]: whether a token may begin with these two
  std::array<bool, 256> first_{};
  int only_first_ = -1;  // the byte that all tokens begin with, or -2
  std::vector<Node> nodes_;
};

}  // namespace ssa
