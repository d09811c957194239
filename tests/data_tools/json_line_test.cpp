#include "data_tools/json_line.h"

#include <string>

#include "ssa/base/error.h"
#include "support/catch.h"

using ssa::FieldKind;

namespace {

std::string parse(const std::string& line, FieldKind kind = FieldKind::text) {
  std::string text;
  ssa::parse_json_line(line, "text", kind, text);
  return text;
}

std::string error_of(const std::string& line, FieldKind kind = FieldKind::text) {
  try {
    parse(line, kind);
  } catch (const ssa::Error& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("json line: the field is found among others and its escapes are decoded") {
  CHECK(parse(R"({"text": "a"})") == "a");
  CHECK(parse(R"( {"id":1,"meta":{"text":"no","l":[1,-2.5e+3,true,false,null,{}]},"text":"yes","z":[]} )") == "yes");
  CHECK(parse(R"({"text": "\"\\\/\b\f\n\r\t\u0041\u00e9\u20ac\ud83d\ude00"})") ==
        "\"\\/\b\f\n\r\tA\u00e9\u20ac\U0001F600");
  CHECK(parse(R"({"te\u0078t": "escaped key"})") == "escaped key");
  CHECK(parse(R"({"text": "first", "text": "last"})") == "last");
  CHECK(parse(R"({"text": null, "text": "last"})") == "last");
  CHECK(parse(R"({"text": ""})").empty());
}

TEST_CASE("json line: lone surrogates become U+FFFD and are counted") {
  std::string text;
  CHECK(ssa::parse_json_line(R"({"text": "a\ud800b\udc00\ud800\ud83d\ude00"})", "text", FieldKind::text, text) == 3);
  CHECK(text == "a\uFFFDb\uFFFD\uFFFD\U0001F600");
}

TEST_CASE("json line: a conversation is its contents joined by a blank line") {
  CHECK(parse(R"({"text": [{"role":"user","content":"Hi"},{"content":"Ho","role":"x"}]})", FieldKind::conversation) ==
        "Hi\n\nHo");
  CHECK(parse(R"({"text": []})", FieldKind::conversation).empty());
  CHECK(error_of(R"({"text": "Hi"})", FieldKind::conversation) ==
        "field \"text\" is a string, expected a list of objects with a string \"content\"");
  CHECK(error_of(R"({"text": [{"role":"user"}]})", FieldKind::conversation).find("no string \"content\"") !=
        std::string::npos);
  CHECK(error_of(R"({"text": ["Hi"]})", FieldKind::conversation).find("an element that is not an object") !=
        std::string::npos);
}

TEST_CASE("json line: an error names the cause and the column") {
  CHECK(error_of(R"({"title": "a"})") == "no field \"text\"");
  CHECK(error_of(R"({"text": null})") == "field \"text\" is null, expected a string");
  CHECK(error_of(R"({"text": 3})") == "field \"text\" is a number, expected a string");
  CHECK(error_of(R"({"text": ["a"]})") == "field \"text\" is a list, expected a string");
  CHECK(error_of(R"({"text": "a)") == "malformed JSON at column 12, expected the closing quote of a string");
  CHECK(error_of(R"({"text": "a"} x)") == "malformed JSON at column 15, expected the end of the line");
  CHECK(error_of(R"(["a"])") == "malformed JSON at column 1, expected a JSON object");
  for (const char* line :
       {"", "{", "{\"text\"", "{\"text\":", "{\"text\":}", "{\"text\":\"a\",}", "{\"text\":\"a\" \"b\":1}", "{text:1}",
        "{\"a\":01,\"text\":\"\"}", "{\"a\":1.,\"text\":\"\"}", "{\"a\":-,\"text\":\"\"}", "{\"a\":1e,\"text\":\"\"}",
        "{\"a\":tru,\"text\":\"\"}", "{\"a\":[1 2],\"text\":\"\"}", "{\"text\":\"\\x\"}", "{\"text\":\"\\u12g4\"}",
        "{\"text\":\"\\u12", "{\"text\":\"\t\"}", "{\"text\":\"\\"})
    CHECK(error_of(line).find("malformed JSON at column") == 0);
  CHECK(error_of("{\"a\":" + std::string(100000, '[')).find("256 levels") != std::string::npos);
}
