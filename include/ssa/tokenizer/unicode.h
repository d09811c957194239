// Unicode properties and canonical composition, from generated tables. Own code: token ids depend on the Unicode
// version, so it must be the one that the reference implementations use (scripts/make_unicode_tables.py names it: for
// NFC it is 9.0). ICU and utf8proc have the version of the installed release.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ssa {

/// The version of Unicode whose categories and scripts the patterns of pre-tokenizers use.
const char* unicode_version();

enum UnicodeClass : std::uint8_t {
  kLetter = 1,    // \p{L}
  kNumber = 2,    // \p{N}
  kSpace = 4,     // \s
  kNumeric = 8,   // what the Digits pre-tokenizer separates; \p{N} of a newer Unicode
  kWord = 16,     // \w
  kNfcMark = 32,  // may change under NFC, or may combine with what precedes it
};

/// Classes of letters that patterns by case distinguish (o200k, Tekken), and of what DeepSeek's distinguishes.
enum CaseClass : std::uint8_t {
  kUpperPart = 1,    // [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]
  kLowerPart = 2,    // [\p{Ll}\p{Lm}\p{Lo}\p{M}]
  kMark = 4,         // \p{M}
  kPunctuation = 8,  // [\p{P}\p{S}]
  kAnyLetter = 16,   // \p{L}
  kAnyNumber = 32,   // \p{N}
  kAnySpace = 64,    // \s
};

/// A byte of class bits for every code point, in two levels.
class CodePointTable {
 public:
  /// `flat`: a byte per code point, 0x110000 of them.
  explicit CodePointTable(const std::vector<std::uint8_t>& flat);

  std::uint8_t operator[](std::uint32_t code_point) const {
    return blocks_[static_cast<std::size_t>(block_of_[code_point >> 8]) << 8 | (code_point & 255)];
  }
  /// The bits of a code point below 128.
  std::uint8_t ascii(unsigned char byte) const { return blocks_[byte]; }

 private:
  std::array<std::uint16_t, 0x1100> block_of_{};
  std::vector<std::uint8_t> blocks_;
};

/// Bits of UnicodeClass.
class UnicodeTable : public CodePointTable {
 public:
  static const UnicodeTable& get();

 private:
  UnicodeTable();
};

/// Bits of CaseClass.
const CodePointTable& case_table();

/// Ranges of code points, first to last.
using CodePointRanges = std::vector<std::pair<std::uint32_t, std::uint32_t>>;

/// Appends the ranges of \p{name} as Hugging Face's engine knows it: a general category (Lu, Uppercase_Letter), a
/// script (Han, Hani), Any, Assigned, White_Space or ASCII; upper and lower case, spaces, - and _ do not matter. False
/// for another name.
bool append_property(std::string_view name, CodePointRanges& ranges);
/// Appends \w of that engine inside a character class.
void append_word(CodePointRanges& ranges);

/// Sets `out` to normalization form C of valid UTF-8. Returns false, with `out` unchanged, if `text` is in that form.
bool normalize_nfc(std::string_view text, std::string& out);

}  // namespace ssa
