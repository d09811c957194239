// Unicode properties and canonical composition, from generated tables. Own code: token ids depend on the Unicode
// version, so it must be the one that the reference implementations use (scripts/make_unicode_tables.py names it: for
// NFC it is 9.0). ICU and utf8proc have the version of the installed release.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ssa {

enum UnicodeClass : std::uint8_t {
  kLetter = 1,    // \p{L}
  kNumber = 2,    // \p{N}
  kSpace = 4,     // \s
  kNumeric = 8,   // what the Digits pre-tokenizer separates; \p{N} of a newer Unicode
  kWord = 16,     // \w
  kNfcMark = 32,  // may change under NFC, or may combine with what precedes it
};

/// Bits of UnicodeClass for every code point, in two levels.
class UnicodeTable {
 public:
  static const UnicodeTable& get();

  std::uint8_t operator[](std::uint32_t code_point) const {
    return blocks_[static_cast<std::size_t>(block_of_[code_point >> 8]) << 8 | (code_point & 255)];
  }
  /// The bits of a code point below 128.
  std::uint8_t ascii(unsigned char byte) const { return blocks_[byte]; }

 private:
  UnicodeTable();

  std::array<std::uint16_t, 0x1100> block_of_{};
  std::vector<std::uint8_t> blocks_;
};

/// Sets `out` to normalization form C of valid UTF-8. Returns false, with `out` unchanged, if `text` is in that form.
bool normalize_nfc(std::string_view text, std::string& out);

}  // namespace ssa
