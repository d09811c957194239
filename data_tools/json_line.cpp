#include "data_tools/json_line.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "ssa/base/error.h"
#include "ssa/tokenizer/utf8.h"

namespace ssa {
namespace {

constexpr int kMaxDepth = 256;
constexpr std::array<std::string_view, 4> kMessageKeys = {"content", "value", "role", "from"};

bool is_digit(char c) { return c >= '0' && c <= '9'; }

class Parser {
 public:
  Parser(std::string_view line, const ChatTemplate* chat)
      : begin_(line.data()), p_(line.data()), end_(line.data() + line.size()), chat_(chat) {}

  const LineReport& report() const { return report_; }

  void record(std::string_view field, FieldKind kind, std::string& text) {
    skip_space();
    if (p_ == end_ || *p_ != '{') malformed("a JSON object");
    field_ = field;
    kind_ = kind;
    text_ = &text;
    members(field, 0);
    skip_space();
    if (p_ != end_) malformed("the end of the line");
    if (!seen_ && not_object_)
      fail("no field \"", field, "\": \"", parent_, "\" is ", not_object_, ", expected an object");
    if (!seen_) fail("no field \"", field, "\"");
    if (!found_.empty()) fail("field \"", field, "\" ", found_);
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
      case 'N': return "NaN";
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

  /// Also NaN and the infinities, which are not JSON but which Python writes.
  void number() {
    if (*p_ == 'N') return literal("NaN");
    if (*p_ == '-') ++p_;
    if (p_ != end_ && *p_ == 'I') return literal("Infinity");
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
      if (out) ++report_.replaced;
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

  /// `key`: the end of a path within field_, or a part of it.
  [[noreturn]] void given_twice(std::string_view key) const {
    const auto end = static_cast<std::size_t>(key.data() + key.size() - field_.data());
    fail("field \"", field_.substr(0, end), "\" is given twice, expected once");
  }

  /// Reads the object at p_, which is to hold the field `path`: under that name, or part by part in nested objects.
  void members(std::string_view path, int depth) {
    std::string key;
    bool here = false;
    std::vector<std::size_t> parents;  // their lengths: all begin the path
    object(
        [&](const std::string& name) {
          if (name == path) {
            if (std::exchange(here, true)) given_twice(path);
            if (depth > 0 && whole_name_) return value(depth + 1);
            if (depth == 0) whole_name_ = true;
            seen_ = true;
            return field_value();
          }
          const bool parent = path.size() > name.size() && path.starts_with(name) && path[name.size()] == '.';
          if (parent) {
            if (std::ranges::find(parents, name.size()) != parents.end()) given_twice(path.substr(0, name.size()));
            parents.push_back(name.size());
          }
          if (parent && *p_ == '{' && depth < kMaxDepth) return members(path.substr(name.size() + 1), depth + 1);
          if (parent) {
            not_object_ = type_here();
            parent_ = field_.substr(0, field_.size() - path.size() + name.size());
          }
          value(depth + 1);
        },
        key);
  }

  void field_value() {
    found_.clear();
    text_->clear();
    report_ = {};
    if (*p_ == '"' && !chat_) return string(text_);
    if (kind_ == FieldKind::text) {
      found_ = concat("is ", type_here(), ", expected a string");
    } else if (*p_ == '[') {
      return messages();
    } else if (chat_ && *p_ != 'n') {
      found_ = concat("is ", type_here(), ", expected a list of messages for chat template ", chat_->name);
    } else if (*p_ != 'n') {
      found_ = concat("is ", type_here(), ", expected a list of messages, a string or null");
    }
    value(1);
  }

  /// The text of a message: a string, or null.
  struct MessageText {
    std::string text = {};
    char type = '\0';  // the first character of the value; \0: no such key
    const char* type_name = nullptr;
  };

  void message_text(MessageText& to) {
    to.text.clear();
    to.type = *p_;
    to.type_name = type_here();
    if (*p_ == '"') return string(&to.text);
    value(3);
  }

  /// Reads the list of messages at p_.
  void messages() {
    turns_.clear();
    std::size_t number = 0;
    bool first = true;
    MessageText content, share, role;
    std::string key;
    list([&] {
      ++number;
      content.type = share.type = role.type = '\0';
      const char* used_key = "content";
      MessageText* used = &content;
      std::vector<std::string_view> keys;  // of kMessageKeys
      if (*p_ == '{') {
        bool from = false;
        object(
            [&](const std::string& name) {
              if (const auto known = std::ranges::find(kMessageKeys, name); known != kMessageKeys.end()) {
                if (std::ranges::find(keys, *known) != keys.end())
                  fail("field \"", field_, "\" holds message ", number, ", which has \"", name,
                       "\" twice, expected once");
                keys.push_back(*known);
              }
              from = from || name == "from";
              if (chat_ && holds_more_than_text(name))
                found_ = concat("holds message ", number, " with \"", name,
                                "\", which is not supported for chat template ", chat_->name);
              if (chat_ && (name == "role" || name == "from")) return message_text(role);
              if (name == "content") return message_text(content);
              if (name == "value") return message_text(share);
              value(3);
            },
            key);
        if (content.type == '\0' && from) {
          used_key = "value";
          used = &share;
        }
        if (used->type != '"' && used->type != 'n' && used->type != '\0')
          found_ = concat("holds message ", number, ", whose \"", used_key, "\" is ", used->type_name,
                          ", expected a string or null");
      } else {
        message_text(content);
        if (content.type != '"' && content.type != 'n')
          found_ =
              concat("holds message ", number, ", which is ", content.type_name, ", expected an object or a string");
      }
      if (chat_) return turn(number, role, *used);
      if (used->type != '"') {
        ++report_.messages_without_text;
        return;
      }
      if (!first) *text_ += "\n\n";
      first = false;
      *text_ += used->text;
    });
    if (chat_) render();
  }

  /// Whether the value at p_ of a message's key `name` is a part of the message that only its own template can render.
  bool holds_more_than_text(std::string_view name) const {
    if (name != "tool_calls" && name != "function_call" && name != "reasoning_content") return false;
    const std::string_view rest(p_, static_cast<std::size_t>(end_ - p_));
    if (rest.starts_with('[')) {
      const std::size_t next = rest.find_first_not_of(" \t", 1);
      return next == rest.npos || rest[next] != ']';
    }
    return !rest.starts_with("null") && !rest.starts_with("\"\"");
  }

  /// Adds a message to those that the chat template renders.
  void turn(std::size_t number, MessageText& role, MessageText& content) {
    if (!found_.empty()) return;
    if (content.type != '"' || role.type != '"') {
      found_ = concat("holds message ", number, " without a ", role.type != '"' ? "role" : "text",
                      ", expected both for chat template ", chat_->name);
      return;
    }
    if (role.text == "human") role.text = "user";
    if (role.text == "gpt") role.text = "assistant";
    turns_.push_back({std::move(role.text), std::move(content.text)});
  }

  void render() {
    if (!found_.empty() || turns_.empty()) return;
    const std::string wrong = chat_->render(turns_, *text_);
    if (!wrong.empty()) found_ = concat("holds ", wrong, " for chat template ", chat_->name);
  }

  const char* begin_;
  const char* p_;
  const char* end_;
  const ChatTemplate* chat_;
  std::string_view field_;
  FieldKind kind_ = FieldKind::text;
  std::string* text_ = nullptr;
  LineReport report_;
  std::vector<ChatMessage> turns_;          // of the conversation, for the chat template
  bool seen_ = false, whole_name_ = false;  // whether the field was met; at the top, under its whole name
  std::string found_;                       // what the field is, if it is no document
  const char* not_object_ = nullptr;        // the type of a part of the field's path that is no object
  std::string_view parent_;                 // that part
};

}  // namespace

LineReport parse_json_line(std::string_view line, std::string_view field, FieldKind kind, std::string& text,
                           const ChatTemplate* chat) {
  text.clear();
  Parser parser(line, chat);
  parser.record(field, kind, text);
  return parser.report();
}

}  // namespace ssa
