// Cuts text into pre-tokens, the pieces that byte-pair merges never cross, as the pre-tokenizers of Hugging Face
// tokenizers do. The patterns of the well-known tokenizers are own loops over character classes: they run over every
// byte of a corpus, and with the Unicode version of the reference tokenizers, which a regex library does not have. Any
// other pattern runs in PCRE2 if the build has it. src/tokenizer/pre_tokenizer.cpp chooses the steps of a tokenizer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "ssa/tokenizer/unicode.h"
#include "ssa/tokenizer/utf8.h"

namespace ssa {

/// A pattern compiled by PCRE2. Threads may share it.
class Regex;

class Splitter {
 public:
  /// The add functions append a step, which cuts the pieces of the steps before it. Without steps, all text is a piece.
  /// GPT-2's pattern: contractions, [space] letters, [space] numbers, [space] others, white space.
  void add_gpt2() { steps_.push_back({.kind = Step::gpt2}); }
  /// The pattern of cl100k and Llama 3 (numbers in groups of up to 3), or of Qwen 2 (each alone).
  void add_cl100k(int max_digits) { steps_.push_back({.kind = Step::cl100k, .max_digits = max_digits}); }
  /// Separates numbers from the rest: every numeric character is a piece, or every run of them.
  void add_digits(bool individual) { steps_.push_back({.kind = Step::digits, .individual = individual}); }
  /// Puts a space before each piece that does not start with one.
  void add_prefix_space() { steps_.push_back({.kind = Step::prefix_space}); }
  /// Cuts at every occurrence of `text`. `keep_matches`, `keep_gaps`: which of the two become pieces.
  void add_literal(const std::string& text, bool keep_matches, bool keep_gaps);
  /// Cuts at every match of a pattern. Throws Error if the build has no PCRE2, or PCRE2 rejects the pattern.
  void add_regex(const std::string& pattern, bool keep_matches, bool keep_gaps);

  /// Calls piece(string_view) for every piece of `text`, in order. `text` must be valid UTF-8. No piece is empty. A
  /// view is valid during its call only.
  template <class Piece>
  void split(std::string_view text, Piece&& piece) const {
    if (text.empty()) return;
    const auto* begin = reinterpret_cast<const unsigned char*>(text.data());
    run(0, begin, begin + text.size(), piece);
  }

 private:
  using Byte = unsigned char;

  struct Step {
    enum Kind { gpt2, cl100k, digits, prefix_space, literal, regex } kind;
    int max_digits = 0;
    bool individual = false, keep_matches = true, keep_gaps = true;
    std::string text = {};
    std::shared_ptr<const Regex> compiled = nullptr;
  };

  template <class Piece>
  void run(std::size_t index, const Byte* p, const Byte* end, Piece& piece) const {
    if (index == steps_.size()) {
      piece(std::string_view(reinterpret_cast<const char*>(p), static_cast<std::size_t>(end - p)));
      return;
    }
    const auto next = [&](const Byte* from, const Byte* to) { run(index + 1, from, to, piece); };
    const Step& step = steps_[index];
    switch (step.kind) {
      case Step::gpt2: return split_gpt2(p, end, next);
      case Step::cl100k: return split_cl100k(step.max_digits, p, end, next);
      case Step::digits: return split_digits(step.individual, p, end, next);
      case Step::prefix_space: {
        if (*p == ' ') return next(p, end);
        std::string spaced = " ";
        spaced.append(p, end);
        const auto* begin = reinterpret_cast<const Byte*>(spaced.data());
        return next(begin, begin + spaced.size());
      }
      case Step::literal:
      case Step::regex: return split_matches(step, p, end, std::cref(next));
    }
  }

  struct Char {
    const Byte* end;    // of the character
    std::uint8_t bits;  // its UnicodeClass
  };
  Char at(const Byte* p) const {
    if (*p < 0x80) return {p + 1, table_->ascii(*p)};
    const Byte* next = p;
    const std::uint32_t c = next_code_point(next);
    return {next, (*table_)[c]};
  }
  /// The end of the longest run from p of characters with one of `bits` or, for `bits` = 0, with none of L, N, \s.
  template <std::uint8_t bits>
  const Byte* skip(const Byte* p, const Byte* end) const {
    while (p != end) {
      const Char c = at(p);
      if constexpr (bits != 0) {
        if (!(c.bits & bits)) break;
      } else {
        if (c.bits & (kLetter | kNumber | kSpace)) break;
      }
      p = c.end;
    }
    return p;
  }

  /// \s+(?!\S)|\s+ at p, which is white space: the run, without its last character if more text follows and the run has
  /// more than one.
  const Byte* white_space(const Byte* p, const Byte* end) const {
    const Byte* last = p;
    const Byte* q = p;
    while (q != end) {
      const Char c = at(q);
      if (!(c.bits & kSpace)) break;
      last = q;
      q = c.end;
    }
    return q == end || last == p ? q : last;
  }

  template <class Next>
  void split_gpt2(const Byte* p, const Byte* end, const Next& next) const {
    while (p != end) {
      const Byte* const start = p;
      if (*p == '\'') {
        if (const int length = contraction(p, end)) {
          next(start, p += length);
          continue;
        }
      }
      Char c = at(p);
      if (*p == ' ' && c.end != end) {
        const Char after = at(c.end);
        if (!(after.bits & kSpace)) {
          p = c.end;
          c = after;
        }
      }
      if (c.bits & kLetter)
        p = skip<kLetter>(c.end, end);
      else if (c.bits & kNumber)
        p = skip<kNumber>(c.end, end);
      else if (c.bits & kSpace)
        p = white_space(p, end);
      else
        p = skip<0>(c.end, end);
      next(start, p);
    }
  }

  template <class Next>
  void split_cl100k(int max_digits, const Byte* p, const Byte* end, const Next& next) const {
    while (p != end) {
      const Byte* const start = p;
      if (*p == '\'') {
        if (const int length = contraction_any_case(p, end)) {
          next(start, p += length);
          continue;
        }
      }
      const Char c = at(p);
      if (c.bits & kLetter) {
        p = skip<kLetter>(c.end, end);
      } else if (c.bits & kNumber) {
        p = c.end;
        for (int i = 1; i < max_digits && p != end; ++i) {
          const Char digit = at(p);
          if (!(digit.bits & kNumber)) break;
          p = digit.end;
        }
      } else {
        const Char after = c.end != end ? at(c.end) : Char{end, kSpace};
        if ((after.bits & kLetter) && *p != '\r' && *p != '\n') {
          p = skip<kLetter>(after.end, end);
        } else if (!(c.bits & kSpace)) {
          p = skip_line_ends(skip<0>(c.end, end), end);
        } else if (*p == ' ' && !(after.bits & (kNumber | kSpace))) {
          p = skip_line_ends(skip<0>(after.end, end), end);
        } else {
          p = line_ends_or_space(p, end);
        }
      }
      next(start, p);
    }
  }

  static const Byte* skip_line_ends(const Byte* p, const Byte* end) {
    while (p != end && (*p == '\r' || *p == '\n')) ++p;
    return p;
  }

  /// \s*[\r\n]+|\s+(?!\S)|\s+ at p, which is white space.
  const Byte* line_ends_or_space(const Byte* p, const Byte* end) const {
    const Byte *last = p, *after_line_end = nullptr, *q = p;
    while (q != end) {
      const Char c = at(q);
      if (!(c.bits & kSpace)) break;
      if (*q == '\r' || *q == '\n') after_line_end = c.end;
      last = q;
      q = c.end;
    }
    if (after_line_end) return after_line_end;
    return q == end || last == p ? q : last;
  }

  template <class Next>
  void split_digits(bool individual, const Byte* p, const Byte* end, const Next& next) const {
    const Byte* start = p;  // of the piece that is being read
    bool in_number = false;
    while (p != end) {
      const Char c = at(p);
      const bool number = c.bits & kNumeric;
      if (p != start && (number != in_number || (number && individual))) {
        next(start, p);
        start = p;
      }
      in_number = number;
      p = c.end;
    }
    next(start, end);
  }

  static int contraction(const Byte* p, const Byte* end);
  static int contraction_any_case(const Byte* p, const Byte* end);
  static void split_matches(const Step& step, const Byte* p, const Byte* end,
                            const std::function<void(const Byte*, const Byte*)>& next);

  std::vector<Step> steps_;
  const UnicodeTable* table_ = &UnicodeTable::get();
};

}  // namespace ssa
