#include "data_tools/json_line.h"

#include <cstdint>

#include "ssa/base/error.h"
#include "ssa/tokenizer/utf8.h"

namespace ssa {
namespace {

constexpr int kMaxDepth = 256;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

class Parser {
 public:
  explicit Parser(std::string_view line) : begin_(line.data()), p_(line.data()), end_(line.data() + line.size()) {}

  std::size_t replaced() const { return replaced_; }

  void record(std::string_view field, FieldKind kind, std::string& text) {
    skip_space();
    if (p_ == end_ || *p_ != '{') malformed("a JSON object");
    const char* found = nullptr;  // the type of the field if it is not a document
    bool seen = false;
    std::string key;
    object(
        [&](const std::string& name) {
          if (name != field) return value(1);
          seen = true;
          found = nullptr;
          text.clear();
          if (kind == FieldKind::conversation) return conversation(text, found);
          if (*p_ == '"') return string(&text);
          found = type_here();
          value(1);
        },
        key);
    skip_space();
    if (p_ != end_) malformed("the end of the line");
    if (!seen) fail("no field \"", field, "\"");
    if (found)
      fail("field \"", field, "\" is ", found, ", expected ",
           kind == FieldKind::text ? "a string" : "a list of objects with a string \"content\"");
  }

 private:
  [[noreturn]] void malformed(const char* expected) const {
    fail("malformed JSON at column ", p_ - begin_ + 1, ", expected ", expected);
  }

  void skip_space() {
    while (p_ != end_ && (*p_ == ' ' || *p_ == '\t' || *p_ == '\n' || *p_ == '\r')) ++p_;
  }

  const char* type_here() const {
    switch (*p_) {
      case 'n': return "null";
      case 't':
      case 'f': return "a boolean";
      case '{': return "an object";
      case '[': return "a list";
      case '"': return "a string";
      default: return "a number";
    }
  }

  void literal(std::string_view word) {
    if (static_cast<std::size_t>(end_ - p_) < word.size() || std::string_view(p_, word.size()) != word)
      malformed("a value");
    p_ += word.size();
  }

  void number() {
    if (*p_ == '-') ++p_;
    if (p_ == end_ || !is_digit(*p_)) malformed("a value");
    if (*p_ == '0')
      ++p_;
    else
      digits();
    if (p_ != end_ && *p_ == '.') {
      ++p_;
      digits();
    }
    if (p_ != end_ && (*p_ == 'e' || *p_ == 'E')) {
      ++p_;
      if (p_ != end_ && (*p_ == '+' || *p_ == '-')) ++p_;
      digits();
    }
  }

  void digits() {
    if (p_ == end_ || !is_digit(*p_)) malformed("a digit");
    while (p_ != end_ && is_digit(*p_)) ++p_;
  }

  std::uint32_t hex4() {
    std::uint32_t value = 0;
    for (int i = 0; i < 4; ++i, ++p_) {
      if (p_ == end_) malformed("four hex digits");
      const char c = *p_;
      if (is_digit(c))
        value = value * 16 + static_cast<std::uint32_t>(c - '0');
      else if (c >= 'a' && c <= 'f')
        value = value * 16 + static_cast<std::uint32_t>(c - 'a' + 10);
      else if (c >= 'A' && c <= 'F')
        value = value * 16 + static_cast<std::uint32_t>(c - 'A' + 10);
      else
        malformed("four hex digits");
    }
    return value;
  }

  void unicode_escape(std::string* out) {
    std::uint32_t c = hex4();
    if (c >= 0xd800 && c < 0xdc00 && end_ - p_ >= 6 && p_[0] == '\\' && p_[1] == 'u') {
      const char* const second = p_;
      p_ += 2;
      const std::uint32_t low = hex4();
      if (low >= 0xdc00 && low < 0xe000)
        c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
      else
        p_ = second;
    }
    if (c >= 0xd800 && c < 0xe000) {
      c = 0xfffd;
      if (out) ++replaced_;
    }
    if (out) append_utf8(*out, c);
  }

  /// Reads the string at p_, into `out` unless it is null.
  void string(std::string* out) {
    ++p_;
    while (true) {
      const char* run = p_;
      while (p_ != end_ && *p_ != '"' && *p_ != '\\' && static_cast<unsigned char>(*p_) >= 0x20) ++p_;
      if (out) out->append(run, p_);
      if (p_ == end_) malformed("the closing quote of a string");
      if (*p_ == '"') {
        ++p_;
        return;
      }
      if (*p_ != '\\') malformed("an escaped control character");
      ++p_;
      if (p_ == end_) malformed("an escape");
      const char escape = *p_++;
      char plain;
      switch (escape) {
        case '"':
        case '\\':
        case '/': plain = escape; break;
        case 'b': plain = '\b'; break;
        case 'f': plain = '\f'; break;
        case 'n': plain = '\n'; break;
        case 'r': plain = '\r'; break;
        case 't': plain = '\t'; break;
        case 'u': unicode_escape(out); continue;
        default: --p_; malformed("an escape");
      }
      if (out) *out += plain;
    }
  }

  /// Reads the object at p_; `member(name)` is called with p_ at each value and reads it.
  template <class Member>
  void object(Member&& member, std::string& key) {
    ++p_;
    skip_space();
    if (p_ != end_ && *p_ == '}') {
      ++p_;
      return;
    }
    while (true) {
      skip_space();
      if (p_ == end_ || *p_ != '"') malformed("a key");
      key.clear();
      string(&key);
      skip_space();
      if (p_ == end_ || *p_ != ':') malformed("a colon");
      ++p_;
      skip_space();
      if (p_ == end_) malformed("a value");
      member(key);
      if (!another('}')) return;
    }
  }

  /// Reads the list at p_; `element()` is called with p_ at each element and reads it.
  template <class Element>
  void list(Element&& element) {
    ++p_;
    skip_space();
    if (p_ != end_ && *p_ == ']') {
      ++p_;
      return;
    }
    while (true) {
      skip_space();
      if (p_ == end_) malformed("a value");
      element();
      if (!another(']')) return;
    }
  }

  bool another(char close) {
    skip_space();
    if (p_ == end_ || (*p_ != ',' && *p_ != close)) malformed(close == '}' ? "a comma or }" : "a comma or ]");
    return *p_++ == ',';
  }

  /// Skips the value at p_.
  void value(int depth) {
    if (depth > kMaxDepth) malformed("at most 256 levels");
    switch (*p_) {
      case '"': return string(nullptr);
      case '{': {
        std::string key;
        return object([&](const std::string&) { value(depth + 1); }, key);
      }
      case '[': return list([&] { value(depth + 1); });
      case 't': return literal("true");
      case 'f': return literal("false");
      case 'n': return literal("null");
      default: return number();
    }
  }

  void conversation(std::string& text, const char*& found) {
    if (*p_ != '[') {
      found = type_here();
      return value(1);
    }
    bool first = true;
    list([&] {
      if (*p_ != '{') {
        found = "a list with an element that is not an object";
        return value(2);
      }
      if (!first) text += "\n\n";
      first = false;
      const std::size_t start = text.size();
      bool has_content = false;
      std::string key;
      object(
          [&](const std::string& name) {
            if (name != "content") return value(3);
            text.resize(start);
            has_content = *p_ == '"';
            if (has_content) return string(&text);
            value(3);
          },
          key);
      if (!has_content) found = "a list with an object that has no string \"content\"";
    });
  }

  const char* begin_;
  const char* p_;
  const char* end_;
  std::size_t replaced_ = 0;
};

}  // namespace

std::size_t parse_json_line(std::string_view line, std::string_view field, FieldKind kind, std::string& text) {
  text.clear();
  Parser parser(line);
  parser.record(field, kind, text);
  return parser.replaced();
}

}  // namespace ssa
