#include "data_tools/json_line.h"

#include <string>

#include "ssa/base/error.h"
#include "support/catch.h"

using ssa::FieldKind;

namespace {

std::string parse(const std::string& line, FieldKind kind = FieldKind::text, const char* field = "text") {
  std::string text;
  ssa::parse_json_line(line, field, kind, text);
  return text;
}

std::string line_error(const std::string& line, FieldKind kind = FieldKind::text, const char* field = "text") {
  try {
    parse(line, kind, field);
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
  CHECK(parse(R"({"text": ""})").empty());
}

TEST_CASE("json line: lone surrogates become U+FFFD and are counted") {
  std::string text;
  CHECK(
      ssa::parse_json_line(R"({"text": "a\ud800b\udc00\ud800\ud83d\ude00"})", "text", FieldKind::text, text).replaced ==
      3);
  CHECK(text == "a\uFFFDb\uFFFD\uFFFD\U0001F600");
}

TEST_CASE("json line: a conversation is the texts of its messages joined by a blank line") {
  const auto conversation = [](const std::string& field) {
    return parse("{\"text\": " + field + "}", FieldKind::conversation);
  };
  CHECK(conversation(R"([{"role":"user","content":"Hi"},{"content":"Ho","role":"x"}])") == "Hi\n\nHo");
  CHECK(conversation(R"([{"from":"human","value":"Hi"},{"value":"Ho","from":"gpt"}])") == "Hi\n\nHo");
  CHECK(conversation(R"(["Hi","Ho"])") == "Hi\n\nHo");
  CHECK(conversation(R"("Hi")") == "Hi");
  CHECK(conversation("null").empty());
  CHECK(conversation("[]").empty());
  CHECK(conversation(R"([{"content":""},{"content":"Ho"}])") == "\n\nHo");
  CHECK(conversation(R"([{"from":"a","value":"no","content":"Hi"},{"value":3,"content":"Ho"}])") == "Hi\n\nHo");
}

TEST_CASE("json line: messages without a text are omitted and counted") {
  std::string text;
  const ssa::LineReport report = ssa::parse_json_line(
      R"({"text": [{"role":"system"},{"content":null},{"content":"Hi"},null,{"from":"gpt","value":null},)"
      R"({"value":"no"},{"content":"Ho","tool_calls":[{"value":"x"}]}]})",
      "text", FieldKind::conversation, text);
  CHECK(text == "Hi\n\nHo");
  CHECK(report.messages_without_text == 5);
}

TEST_CASE("json line: what is no conversation is named") {
  const auto error = [](const std::string& field) {
    return line_error("{\"text\": " + field + "}", FieldKind::conversation);
  };
  const std::string expected = ", expected a list of messages, a string or null";
  CHECK(error("3") == "field \"text\" is a number" + expected);
  CHECK(error("{}") == "field \"text\" is an object" + expected);
  CHECK(error("true") == "field \"text\" is a boolean" + expected);
  CHECK(error(R"(["a", 3])") == "field \"text\" holds message 2, which is a number, expected an object or a string");
  CHECK(error(R"([{"content":[{"type":"text","text":"a"}]}])") ==
        "field \"text\" holds message 1, whose \"content\" is a list, expected a string or null");
  CHECK(error(R"([{"from":"gpt","value":1}])") ==
        "field \"text\" holds message 1, whose \"value\" is a number, expected a string or null");
}

TEST_CASE("json line: a field of nested objects is named with dots") {
  const char* const line = R"({"a":{"b":{"text":"deep"},"c":"mid"},"a.c":"whole","z":{"c":5},"n":null})";
  const auto at = [&](const char* field) { return parse(line, FieldKind::text, field); };
  CHECK(at("a.b.text") == "deep");
  CHECK(at("a.c") == "whole");  // a field with that very name takes precedence
  CHECK(parse(R"({"a.c":"whole","a":{"c":"mid"}})", FieldKind::text, "a.c") == "whole");
  CHECK(parse(R"({"x.y":{"z":"dots"}})", FieldKind::text, "x.y.z") == "dots");
  CHECK(line_error(line, FieldKind::text, "z.c") == "field \"z.c\" is a number, expected a string");
  CHECK(line_error(line, FieldKind::text, "z.d") == "no field \"z.d\"");
  CHECK(line_error(line, FieldKind::text, "n.d") == "no field \"n.d\": \"n\" is null, expected an object");
  CHECK(line_error(line, FieldKind::text, "a.b.text.more") ==
        "no field \"a.b.text.more\": \"a.b.text\" is a string, expected an object");
}

TEST_CASE("json line: a field that is given twice is an error, as in pyarrow") {
  const std::string twice = "field \"text\" is given twice, expected once";
  CHECK(line_error(R"({"text": "first", "text": "last"})") == twice);
  CHECK(line_error(R"({"text": null, "te\u0078t": "last"})") == twice);
  CHECK(parse(R"({"id": 1, "id": 2, "text": "other fields are not read"})") == "other fields are not read");
  const auto nested = [](const char* line) { return line_error(line, FieldKind::text, "a.b.c"); };
  CHECK(nested(R"({"a":{"b":{"c":"1","c":"2"}}})") == "field \"a.b.c\" is given twice, expected once");
  CHECK(nested(R"({"a":{"b":{"c":"1"},"b":{"d":0}}})") == "field \"a.b\" is given twice, expected once");
  CHECK(nested(R"({"a":{"b":{"c":"1"}},"a":3})") == "field \"a\" is given twice, expected once");
  CHECK(parse(R"({"a":{"c":0,"b":{"c":"1"}},"c":1})", FieldKind::text, "a.b.c") == "1");
  const auto message = [](const char* keys) {
    return line_error(ssa::concat("{\"text\":[{\"content\":\"a\"},{", keys, "}]}"), FieldKind::conversation);
  };
  CHECK(message(R"("content":"a","role":"x","content":"b")") ==
        "field \"text\" holds message 2, which has \"content\" twice, expected once");
  CHECK(message(R"("from":"gpt","from":"human","value":"b")") ==
        "field \"text\" holds message 2, which has \"from\" twice, expected once");
  CHECK(message(R"("content":"a","id":1,"id":2)") == "no error");
}

TEST_CASE("json line: NaN and infinities of Python are values") {
  CHECK(parse(R"({"text":"one","score":NaN})") == "one");
  CHECK(parse(R"({"score":[Infinity,-Infinity,NaN,{"a":NaN}],"text":"one"})") == "one");
  CHECK(line_error(R"({"text":NaN})") == "field \"text\" is NaN, expected a string");
  for (const char* line : {R"({"a":Nan,"text":""})", R"({"a":Infinit,"text":""})", R"({"a":-NaN,"text":""})",
                           R"({"a":nan,"text":""})", R"({"a":N)"})
    CHECK(line_error(line).find("malformed JSON at column") == 0);
}

TEST_CASE("json line: an error names the cause and the column") {
  CHECK(line_error(R"({"title": "a"})") == "no field \"text\"");
  CHECK(line_error(R"({"text": null})") == "field \"text\" is null, expected a string");
  CHECK(line_error(R"({"text": 3})") == "field \"text\" is a number, expected a string");
  CHECK(line_error(R"({"text": ["a"]})") == "field \"text\" is a list, expected a string");
  CHECK(line_error(R"({"text": "a)") == "malformed JSON at column 12, expected the closing quote of a string");
  CHECK(line_error(R"({"text": "a"} x)") == "malformed JSON at column 15, expected the end of the line");
  CHECK(line_error(R"(["a"])") == "malformed JSON at column 1, expected a JSON object");
  for (const char* line :
       {"", "{", "{\"text\"", "{\"text\":", "{\"text\":}", "{\"text\":\"a\",}", "{\"text\":\"a\" \"b\":1}", "{text:1}",
        "{\"a\":01,\"text\":\"\"}", "{\"a\":1.,\"text\":\"\"}", "{\"a\":-,\"text\":\"\"}", "{\"a\":1e,\"text\":\"\"}",
        "{\"a\":tru,\"text\":\"\"}", "{\"a\":[1 2],\"text\":\"\"}", "{\"text\":\"\\x\"}", "{\"text\":\"\\u12g4\"}",
        "{\"text\":\"\\u12", "{\"text\":\"\t\"}", "{\"text\":\"\\"})
    CHECK(line_error(line).find("malformed JSON at column") == 0);
  CHECK(line_error("{\"a\":" + std::string(100000, '[')).find("256 levels") != std::string::npos);
}
