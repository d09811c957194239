// The patterns of pre-tokenizers: the syntax and meaning of Oniguruma with Ruby's syntax, which Hugging Face tokenizers
// uses, on this project's Unicode tables. Own code: token ids must not depend on the regex library of the machine, and
// other libraries read `{1,3}+`, `&&` or `(?i)` in another way. What is not supported is an error that names it:
// back-references, calls, conditionals, \G \K \R \X \y, options other than i m x, case-insensitive characters outside
// ASCII.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ssa/tokenizer/unicode.h"

namespace ssa {

class Regex {
 public:
  /// Throws Error naming the pattern, the construct and its column.
  explicit Regex(const std::string& pattern);

  /// Calls use(from, to) for the matches in valid UTF-8, in order, as Hugging Face's iterator finds them: an empty
  /// match counts unless it is where the match before ended. Threads may share a Regex. Throws Error if a match needs
  /// more than a billion steps, or 512 MiB for the alternatives that are still open.
  template <class Use>
  void each_match(const unsigned char* begin, const unsigned char* end, Use&& use) const {
    Matcher matcher(*this, begin, end);
    const unsigned char* from = begin;
    const unsigned char* last = nullptr;  // where the match before ended
    const unsigned char* start;
    const unsigned char* stop;
    while (from <= end && matcher.find(from, start, stop)) {
      if (start == stop && stop == last) {
        ++from;
        while (from < end && (*from & 0xc0) == 0x80) ++from;
        continue;
      }
      use(start, stop);
      from = last = stop;
    }
  }

 private:
  friend class RegexCompiler;
  using Byte = unsigned char;
  static constexpr std::uint32_t kNoLimit = UINT32_MAX;
  static constexpr std::uint32_t kNone = UINT32_MAX;

  /// A set of code points. Bits in two levels above 127.
  struct Set {
    std::array<std::uint64_t, 2> ascii{};
    std::array<std::uint16_t, 0x1100> block_of{};
    std::vector<std::array<std::uint64_t, 4>> blocks;

    bool has_byte(Byte byte) const { return ascii[byte >> 6] >> (byte & 63) & 1; }
    bool has(std::uint32_t c) const { return blocks[block_of[c >> 8]][c >> 6 & 3] >> (c & 63) & 1; }
  };

  enum class Code : std::uint8_t {
    bytes,         // the text [a, a + b) of literals_
    set,           // a character of set a
    loop,          // min to max characters of set a; b: a LoopKind
    split,         // try a, then b; first: the bytes that a may begin with
    jump,          // to a
    loop_enter,    // keeps the position in slot a
    loop_check,    // to b if the position is that of slot a: an empty round ends a loop
    atomic_begin,  // what matches up to atomic_end is not tried in another way
    atomic_end,
    look_begin,  // what matches up to look_end is not consumed
    look_end,
    not_begin,  // succeeds, to a, if what follows up to not_end does not match
    not_end,
    look_set,  // b: whether the next character must be of set a, or must not
    behind,    // back by a characters
    line_begin,
    line_end,
    text_begin,
    text_end,
    last_line_end,  // the end, or before a final line end
    word_boundary,  // b: whether there must be one, or must not
    match
  };
  enum LoopKind : std::uint32_t { kGreedy, kLazy, kPossessive };
  struct Op {
    Code code;
    std::uint32_t a = 0, b = 0, min = 0, max = 0, first = kNone;
  };

  /// The state of one search; memory grows with the alternatives that are open.
  class Matcher {
   public:
    Matcher(const Regex& regex, const Byte* begin, const Byte* end)
        : regex_(regex), begin_(begin), end_(end), slots_(regex.slots_) {}
    /// The first match that starts at `from` or after it.
    bool find(const Byte* from, const Byte*& start, const Byte*& stop);

   private:
    enum class Kind : std::uint32_t { alternative, shorter, longer, mark, slot };
    struct Entry {
      Kind kind;
      std::uint32_t op;
      const Byte* at;
      const Byte* low;  // shorter: the shortest end; slot: unused
      std::uint32_t count;
    };

    const Byte* match(const Byte* at);
    bool word_at(const Byte* at) const;

    const Regex& regex_;
    const Byte *begin_, *end_;
    std::vector<const Byte*> slots_;
    std::vector<Entry> stack_;
  };

  std::string pattern_;
  std::vector<Op> ops_;
  std::vector<Set> sets_;
  std::string literals_;
  std::vector<std::array<std::uint64_t, 4>> first_bytes_;
  std::uint32_t first_ = kNone;  // the bytes that a match may begin with
  std::size_t slots_ = 0;
};

}  // namespace ssa
