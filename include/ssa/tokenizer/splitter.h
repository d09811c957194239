// Cuts text into pre-tokens, the pieces that byte-pair merges never cross, as the pre-tokenizers of Hugging Face
// tokenizers do. The patterns of well-known tokenizers are hand-written loops over character classes, because they run
// over every byte of a corpus. Any other pattern runs in src/tokenizer/regex.h. src/tokenizer/pre_tokenizer.cpp chooses
// the steps of a tokenizer.
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

class Regex;

/// What a Split pre-tokenizer makes of its matches.
enum class SplitBehavior {
  isolated,              // matches and what is between them are pieces
  removed,               // what is between matches
  contiguous,            // as isolated, with adjacent matches as one piece
  merged_with_previous,  // a match ends a piece
  merged_with_next,      // a match begins a piece
};

class Splitter {
 public:
  /// The add functions append a step, which cuts the pieces of the steps before it. Without steps, all text is a piece.
  /// GPT-2's pattern: contractions, [space] letters, [space] numbers, [space] others, white space.
  void add_gpt2() { steps_.push_back({.kind = Step::gpt2}); }
  /// The pattern of cl100k and Llama 3 (numbers in groups of up to 3), or of Qwen 2 (each alone).
  void add_cl100k(int max_digits) { steps_.push_back({.kind = Step::cl100k, .max_digits = max_digits}); }
  /// The pattern of o200k (numbers in groups of up to 3, contractions), or of Tekken (neither).
  void add_o200k(int max_digits, bool contractions) {
    steps_.push_back({.kind = Step::o200k, .max_digits = max_digits, .contractions = contractions});
  }
  /// The three patterns of DeepSeek V3, one after the other: \p{N}{1,n}; Han and kana; words, punctuation, white space.
  void add_number_groups(int max_digits) { steps_.push_back({.kind = Step::number_groups, .max_digits = max_digits}); }
  void add_han_kana() { steps_.push_back({.kind = Step::han_kana}); }
  void add_deepseek() { steps_.push_back({.kind = Step::deepseek}); }
  /// Separates numbers from the rest: every numeric character is a piece, or every run of them.
  void add_digits(bool individual) { steps_.push_back({.kind = Step::digits, .individual = individual}); }
  /// Puts a space before each piece that does not start with one.
  void add_prefix_space() { steps_.push_back({.kind = Step::prefix_space}); }
  /// Cuts at every occurrence of `text`. `invert` exchanges matches and what is between them.
  void add_literal(const std::string& text, SplitBehavior behavior, bool invert);
  /// Cuts at every match of a pattern. Throws Error for one that is not supported.
  void add_regex(const std::string& pattern, SplitBehavior behavior, bool invert);

  /// Metaspace of SentencePiece tokenizers: spaces become `mark`, which is also put before a piece that does not start
  /// with it: before none, before the one at the start of the text, or before all. `split`: each mark begins a piece.
  enum class Prepend { never, first, always };
  void add_metaspace(const std::string& mark, Prepend prepend, bool split) {
    steps_.push_back({.kind = Step::metaspace, .split = split, .prepend = prepend, .text = mark});
  }
  /// Cuts before each `mark` that follows another character. Without effect on ids if no merge crosses such a place.
  void add_cuts_before(const std::string& mark) { steps_.push_back({.kind = Step::cuts_before, .text = mark}); }

  /// Whether there are no steps.
  bool empty() const { return steps_.empty(); }

  /// Calls piece(string_view) for every piece of `text`, in order. `text` must be valid UTF-8. No piece is empty. A
  /// view is valid during its call only. `at_start`: whether the whole text begins here.
  template <class Piece>
  void split(std::string_view text, Piece&& piece, bool at_start = true) const {
    if (text.empty()) return;
    const auto* begin = reinterpret_cast<const unsigned char*>(text.data());
    run(0, begin, begin + text.size(), at_start ? begin : nullptr, piece);
  }

 private:
  using Byte = unsigned char;

  struct Step {
    enum Kind {
      gpt2,
      cl100k,
      o200k,
      number_groups,
      han_kana,
      deepseek,
      digits,
      prefix_space,
      metaspace,
      cuts_before,
      literal,
      regex
    } kind;
    int max_digits = 0;
    bool individual = false, contractions = false, invert = false, split = false;
    Prepend prepend = Prepend::never;
    SplitBehavior behavior = SplitBehavior::isolated;
    std::string text = {};
    std::shared_ptr<const Regex> compiled = nullptr;
  };

  template <class Piece>
  void run(std::size_t index, const Byte* p, const Byte* end, const Byte* text_start, Piece& piece) const {
    if (index == steps_.size()) {
      piece(std::string_view(reinterpret_cast<const char*>(p), static_cast<std::size_t>(end - p)));
      return;
    }
    const auto next = [&](const Byte* from, const Byte* to) { run(index + 1, from, to, text_start, piece); };
    const Step& step = steps_[index];
    switch (step.kind) {
      case Step::gpt2: return split_gpt2(p, end, next);
      case Step::cl100k: return split_cl100k(step.max_digits, p, end, next);
      case Step::o200k: return split_o200k(step, p, end, next);
      case Step::number_groups:
      case Step::han_kana: return split_runs(step, p, end, next);
      case Step::deepseek: return split_deepseek(p, end, next);
      case Step::digits: return split_digits(step.individual, p, end, next);
      case Step::prefix_space: {
        if (*p == ' ') return next(p, end);
        std::string spaced = " ";
        spaced.append(p, end);
        const auto* begin = reinterpret_cast<const Byte*>(spaced.data());
        return next(begin, begin + spaced.size());
      }
      case Step::metaspace: return split_metaspace(step, p, end, p == text_start, next);
      case Step::cuts_before: return split_before(step.text, p, end, /*runs=*/true, next);
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

  /// Where the word of an o200k pattern that starts at p ends, by its first alternative: upper part, then at least one
  /// letter of the lower part. Otherwise null, and `upper` is where the upper part ends.
  const Byte* lower_word(const Byte* p, const Byte* end, const Byte*& upper) const {
    const Byte* after_both = nullptr;  // after the last character that may be in either part
    while (p != end) {
      const Char c = case_at(p);
      if (!(c.bits & kUpperPart)) {
        if (!(c.bits & kLowerPart)) break;
        p = c.end;
        while (p != end) {
          const Char lower = case_at(p);
          if (!(lower.bits & kLowerPart)) break;
          p = lower.end;
        }
        return p;
      }
      if (c.bits & kLowerPart) after_both = c.end;
      p = c.end;
    }
    upper = p;
    return after_both;
  }

  template <class Next>
  void split_o200k(const Step& step, const Byte* p, const Byte* end, const Next& next) const {
    while (p != end) {
      const Byte* const start = p;
      const Char c = case_at(p);
      const bool letter = c.bits & kAnyLetter;
      if (c.bits & kAnyNumber) {
        p = c.end;
        for (int i = 1; i < step.max_digits && p != end; ++i) {
          const Char digit = case_at(p);
          if (!(digit.bits & kAnyNumber)) break;
          p = digit.end;
        }
        next(start, p);
        continue;
      }
      // The first two alternatives: a word, with any character but a letter, number or line end before it.
      const Byte *word = nullptr, *upper = nullptr;
      if (letter) {
        word = lower_word(p, end, upper);
        if (!word) word = upper;
      } else if (*p != '\r' && *p != '\n') {
        word = lower_word(c.end, end, upper);
        if (!word && (c.bits & kMark)) {
          const Byte* ignored = nullptr;
          word = lower_word(p, end, ignored);
        } else if (!word && upper != c.end) {
          word = upper;
        }
      }
      if (word) {
        if (step.contractions && word != end && *word == '\'') word += contraction_any_case(word, end);
        next(start, p = word);
        continue;
      }
      const Char after = c.end != end ? case_at(c.end) : Char{end, kAnySpace};
      if (!(c.bits & kAnySpace)) {
        p = skip_line_ends_and_slashes(skip_others(c.end, end), end);
      } else if (*p == ' ' && !(after.bits & (kAnyLetter | kAnyNumber | kAnySpace))) {
        p = skip_line_ends_and_slashes(skip_others(after.end, end), end);
      } else {
        p = line_ends_or_space(p, end);
      }
      next(start, p);
    }
  }

  Char case_at(const Byte* p) const {
    if (*p < 0x80) return {p + 1, case_table_->ascii(*p)};
    const Byte* next = p;
    const std::uint32_t c = next_code_point(next);
    return {next, (*case_table_)[c]};
  }
  /// [^\s\p{L}\p{N}]*
  const Byte* skip_others(const Byte* p, const Byte* end) const {
    while (p != end) {
      const Char c = case_at(p);
      if (c.bits & (kAnyLetter | kAnyNumber | kAnySpace)) break;
      p = c.end;
    }
    return p;
  }
  static const Byte* skip_line_ends_and_slashes(const Byte* p, const Byte* end) {
    while (p != end && (*p == '\r' || *p == '\n' || *p == '/')) ++p;
    return p;
  }

  /// Separates numbers in groups of up to max_digits, or runs of Han and kana, from the rest.
  template <class Next>
  void split_runs(const Step& step, const Byte* p, const Byte* end, const Next& next) const {
    const Byte* rest = p;
    while (p != end) {
      const Byte* const start = p;
      int count = 0;
      while (p != end && (step.kind == Step::han_kana || count < step.max_digits)) {
        const Byte* after = p;
        const std::uint32_t c = next_code_point(after);
        const bool inside = step.kind == Step::han_kana ? (c >= 0x4e00 && c <= 0x9fa5) || (c >= 0x3040 && c <= 0x30ff)
                                                        : ((*case_table_)[c] & kAnyNumber) != 0;
        if (!inside) break;
        ++count;
        p = after;
      }
      if (count > 0) {
        if (rest != start) next(rest, start);
        next(start, p);
        rest = p;
      } else {
        next_code_point(p);
      }
    }
    if (rest != end) next(rest, end);
  }

  static bool is_ascii_letter(Byte byte) { return (byte | 32) >= 'a' && (byte | 32) <= 'z'; }
  /// [\p{L}\p{M}]*
  const Byte* skip_letters_and_marks(const Byte* p, const Byte* end) const {
    while (p != end) {
      const Char c = case_at(p);
      if (!(c.bits & (kAnyLetter | kMark))) break;
      p = c.end;
    }
    return p;
  }

  /// The third pattern of DeepSeek V3. What it does not match stays together.
  template <class Next>
  void split_deepseek(const Byte* p, const Byte* end, const Next& next) const {
    const Byte* rest = p;  // what no alternative has matched
    const auto match = [&](const Byte* start, const Byte* stop) {
      if (rest != start) next(rest, start);
      next(start, stop);
      rest = p = stop;
    };
    while (p != end) {
      const Char c = case_at(p);
      const Byte* const after = c.end;
      if (*p < 0x80 && (c.bits & kPunctuation) && after != end && is_ascii_letter(*after)) {
        const Byte* stop = after;
        while (stop != end && is_ascii_letter(*stop)) ++stop;
        match(p, stop);
        continue;
      }
      if (c.bits & kAnyLetter) {
        match(p, skip_letters_and_marks(after, end));
        continue;
      }
      if (!(c.bits & kPunctuation) && *p != '\r' && *p != '\n') {
        const Byte* const stop = skip_letters_and_marks(after, end);
        if (stop != after || (c.bits & kMark)) {
          match(p, stop);
          continue;
        }
      }
      const Byte* const symbols = *p == ' ' ? after : p;
      const Byte* stop = symbols;
      while (stop != end) {
        const Char symbol = case_at(stop);
        if (!(symbol.bits & kPunctuation)) break;
        stop = symbol.end;
      }
      if (stop != symbols)
        match(p, skip_line_ends(stop, end));
      else if (c.bits & kAnySpace)
        match(p, line_ends_or_space(p, end));
      else
        p = after;
    }
    if (rest != end) next(rest, end);
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

  template <class Next>
  void split_metaspace(const Step& step, const Byte* p, const Byte* end, bool at_start, const Next& next) const {
    std::string marked;
    for (const Byte* at = p; at != end; ++at)
      if (*at == ' ')
        marked += step.text;
      else
        marked += static_cast<char>(*at);
    const bool prepends = step.prepend == Prepend::always || (step.prepend == Prepend::first && at_start);
    if (prepends && !marked.starts_with(step.text)) marked.insert(0, step.text);
    const auto* begin = reinterpret_cast<const Byte*>(marked.data());
    if (!step.split) return next(begin, begin + marked.size());
    split_before(step.text, begin, begin + marked.size(), /*runs=*/false, next);
  }

  /// Cuts before each `mark`; with `runs` only before the first of several.
  template <class Next>
  static void split_before(const std::string& mark, const Byte* p, const Byte* end, bool runs, const Next& next) {
    const std::string_view text(reinterpret_cast<const char*>(p), static_cast<std::size_t>(end - p));
    std::size_t start = 0, after_mark = 0;  // of the piece, and after the last mark
    for (std::size_t at = text.find(mark); at != text.npos; at = text.find(mark, after_mark)) {
      if (at > start && !(runs && at == after_mark)) {
        next(p + start, p + at);
        start = at;
      }
      after_mark = at + mark.size();
    }
    next(p + start, end);
  }

  static int contraction(const Byte* p, const Byte* end);
  static int contraction_any_case(const Byte* p, const Byte* end);
  static void split_matches(const Step& step, const Byte* p, const Byte* end,
                            const std::function<void(const Byte*, const Byte*)>& next);

  std::vector<Step> steps_;
  const UnicodeTable* table_ = &UnicodeTable::get();
  const CodePointTable* case_table_ = &case_table();
};

}  // namespace ssa
