#include "ssa/tokenizer/utf8.h"

#include <string>

#include "support/catch.h"

namespace {

std::string replaced(std::string text) {
  ssa::replace_invalid_utf8(text);
  return text;
}

}  // namespace

TEST_CASE("utf8: every maximal ill-formed part becomes one U+FFFD") {
  const std::string r = "\uFFFD";
  CHECK(replaced("plain") == "plain");
  CHECK(replaced("\u00e9\u20ac\U0001F600") == "\u00e9\u20ac\U0001F600");
  // The example of Unicode 3.9, table 3-8.
  CHECK(replaced("a\xF1\x80\x80\xE1\x80\xC2"
                 "b\x80"
                 "c\x80\xBF"
                 "d") == "a" + r + r + r + "b" + r + "c" + r + r + "d");
  CHECK(replaced("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41") == r + r + r + r + r + r + r + r + "A");  // overlong forms
  CHECK(replaced("\xED\xA0\x80") == r + r + r);                                                    // a surrogate
  CHECK(replaced("\xF4\x90\x80\x80\xF5\xFF") == r + r + r + r + r + r);                            // above U+10FFFF
  CHECK(replaced("end\xE2\x82") == "end" + r);
  // Longer than the stretches of ASCII that are skipped at once.
  const std::string ascii(100, 'x');
  CHECK(replaced(ascii + "\x80" + ascii) == ascii + r + ascii);
  CHECK(ssa::valid_utf8_prefix(ascii + "\xff") == 100);
}

TEST_CASE("utf8: every code point is the same after encoding and decoding") {
  std::string text;
  for (std::uint32_t c = 0; c <= 0x10ffff; ++c)
    if (c < 0xd800 || c >= 0xe000) ssa::append_utf8(text, c);
  REQUIRE(ssa::valid_utf8_prefix(text) == text.size());
  const auto* p = reinterpret_cast<const unsigned char*>(text.data());
  bool same = true;
  for (std::uint32_t c = 0; c <= 0x10ffff; ++c)
    if (c < 0xd800 || c >= 0xe000) same = same && ssa::next_code_point(p) == c;
  CHECK(same);
}
