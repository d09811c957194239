// Expected values are from CPython 3.11's str and re.
#include "ssa/eval/python_text.h"

#include "support/catch.h"

using namespace ssa::eval;

TEST_CASE("strip removes exactly the white space that Python's str.strip removes") {
  CHECK(strip("\u00a0 a b\u2003\x1c") == "a b");
  CHECK(rstrip(" \u00e9 \t\n") == " \u00e9");
  CHECK(strip(" \n\u3000").empty());
  CHECK(strip("\u200b") == "\u200b");  // U+200B is not white space
}

TEST_CASE("count_words counts like re.split on white space") {
  CHECK(count_words("a b") == 2);
  CHECK(count_words("") == 1);
  CHECK(count_words(" a\n\n b ") == 4);
  CHECK(count_words("x\u00a0y\u2003z\x1cq") == 4);
}

TEST_CASE("code_points counts code points, not bytes") {
  CHECK(code_points("") == 0);
  CHECK(code_points("a\u00e9\u20ac\U0001f642") == 4);
}

TEST_CASE("capitalize equals CPython's str.capitalize, beyond ASCII too") {
  CHECK(capitalize("") == "");
  CHECK(capitalize("a WOMAN") == "A woman");
  CHECK(capitalize("\u00e9MILE \u00dcnd") == "\u00c9mile \u00fcnd");
  CHECK(capitalize("\u00dfa") == "Ssa");
  CHECK(capitalize("\u01c6X") == "\u01c5x");  // a letter with a title case of its own
  CHECK(capitalize("\u017dI\u017dEK") == "\u017di\u017eek");
  CHECK(capitalize("x\u0130") == "Xi\u0307");
}

TEST_CASE("replace_all does not replace inside what it inserted") {
  CHECK(replace_all("a    b", "  ", " ") == "a  b");
  CHECK(replace_all("abc", "x", "y") == "abc");
}
