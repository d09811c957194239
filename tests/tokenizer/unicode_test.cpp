#include "ssa/tokenizer/unicode.h"

#include <string>

#include "ssa/tokenizer/utf8.h"
#include "support/catch.h"

namespace {

std::string nfc(const std::string& text) {
  std::string out = "untouched";
  const bool changed = ssa::normalize_nfc(text, out);
  CHECK(changed == (out != "untouched"));
  return changed ? out : text;
}

}  // namespace

TEST_CASE("unicode: every class has as many characters as in the reference tokenizers") {
  const ssa::UnicodeTable& table = ssa::UnicodeTable::get();
  CHECK(table['a'] == (ssa::kLetter | ssa::kWord));
  CHECK(table['7'] == (ssa::kNumber | ssa::kNumeric | ssa::kWord));
  CHECK(table['_'] == ssa::kWord);
  CHECK(table['\n'] == ssa::kSpace);
  CHECK(table[0x3000] == ssa::kSpace);
  CHECK(table[0x4e2d] == (ssa::kLetter | ssa::kWord));
  CHECK(table[0xbd] == (ssa::kNumber | ssa::kNumeric));
  CHECK(table[0x11de0] == ssa::kNumeric);  // a digit of Unicode 17
  CHECK(table[0x10ffff] == 0);
  int letters = 0, numbers = 0, spaces = 0;
  for (std::uint32_t c = 0; c <= 0x10ffff; ++c) {
    letters += (table[c] & ssa::kLetter) != 0;
    numbers += (table[c] & ssa::kNumber) != 0;
    spaces += (table[c] & ssa::kSpace) != 0;
  }
  CHECK(letters == 141028);  // as tiktoken 0.14 and Hugging Face tokenizers 0.23 count them
  CHECK(numbers == 1911);
  CHECK(spaces == 25);
}

TEST_CASE("unicode: NFC composes, reorders and leaves exclusions decomposed") {
  CHECK(nfc("plain and caf\u00e9") == "plain and caf\u00e9");
  CHECK(nfc("cafe\u0301 e\u0301") == "caf\u00e9 \u00e9");
  CHECK(nfc("\u212b\u2126") == "\u00c5\u03a9");    // singletons
  CHECK(nfc("q\u0307\u0323") == "q\u0323\u0307");  // reordered, no composite
  CHECK(nfc("\u1e9b\u0323") == "\u1e9b\u0323");
  CHECK(nfc("s\u0323\u0307") == "\u1e69");  // two steps
  CHECK(nfc("s\u0307\u0323") == "\u1e69");
  CHECK(nfc("a\u0315\u0300\u05ae\u0062") == "\u00e0\u05ae\u0315\u0062");  // NormalizationTest.txt, part 1
  CHECK(nfc("\u0958") == "\u0915\u093c");                                 // excluded from composition
  CHECK(nfc("\u1100\u1161\u11a8\u1100\u1161") == "\uac01\uac00");         // Hangul
  CHECK(nfc("\uac00\u11a8x\uac01\u11a8") == "\uac01x\uac01\u11a8");
  CHECK(nfc("\u0344") == "\u0308\u0301");
  CHECK(nfc("a\u0328\u0301") == "\u0105\u0301");
  CHECK(nfc("\u0301e") == "\u0301e");
  CHECK(nfc("") == "");
}

TEST_CASE("unicode: NFC is idempotent") {
  std::string all;
  for (std::uint32_t c = 1; c < 0x20000; ++c)
    if (c < 0xd800 || c >= 0xe000) ssa::append_utf8(all, c);
  const std::string once = nfc(all);
  CHECK(once != all);
  CHECK(nfc(once) == once);
}
