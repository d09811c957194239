// UTF-8: strict decoding, and replacement of invalid bytes as Python's errors="replace" does it. Own code: libraries
// differ in how many U+FFFD they write for a run of invalid bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace ssa {

/// Number of leading bytes of `text` that are valid UTF-8 (no surrogates, no overlong forms, nothing above U+10FFFF).
std::size_t valid_utf8_prefix(std::string_view text);

/// Replaces each maximal ill-formed part by U+FFFD (Unicode 3.9, "substitution of maximal subparts", as Python and web
/// browsers do). Returns the number of replacements; if it is 0, `text` is unchanged.
std::size_t replace_invalid_utf8(std::string& text);

/// Appends the code point, which must not be a surrogate nor exceed U+10FFFF.
void append_utf8(std::string& out, std::uint32_t code_point);

/// Decodes the code point at `p` in valid UTF-8 and advances `p` to the next.
inline std::uint32_t next_code_point(const unsigned char*& p) {
  const std::uint32_t lead = *p;
  if (lead < 0x80) {
    p += 1;
    return lead;
  }
  if (lead < 0xe0) {
    const std::uint32_t c = (lead & 0x1f) << 6 | (p[1] & 0x3fu);
    p += 2;
    return c;
  }
  if (lead < 0xf0) {
    const std::uint32_t c = (lead & 0x0f) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu);
    p += 3;
    return c;
  }
  const std::uint32_t c = (lead & 0x07) << 18 | (p[1] & 0x3fu) << 12 | (p[2] & 0x3fu) << 6 | (p[3] & 0x3fu);
  p += 4;
  return c;
}

}  // namespace ssa
