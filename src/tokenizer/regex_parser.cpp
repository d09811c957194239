#include "src/tokenizer/regex_parser.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <optional>
#include <string_view>
#include <utility>

#include "ssa/base/error.h"
#include "ssa/tokenizer/utf8.h"

namespace ssa {
namespace {

using Node = RegexNode;
using Mode = RegexNode::Mode;

constexpr std::uint32_t kMaxRepeat = 100000;  // Oniguruma's
constexpr int kMaxDepth = 100;

/// Reads a pattern into a tree.
class Parser {
 public:
  explicit Parser(const std::string& pattern) : pattern_(pattern) {
    if (valid_utf8_prefix(pattern) != pattern.size()) unsupported("invalid UTF-8");
  }

  Node parse() {
    Node node = alternation(0);
    if (at_ != pattern_.size()) unsupported("an unmatched )");
    return node;
  }

 private:
  [[noreturn]] void unsupported(const std::string& what) const { fail_unsupported(pattern_, at_, what); }

  struct Options {
    bool ignore_case = false, dot_all = false, extended = false;
  };

  bool more() const { return at_ < pattern_.size(); }
  char peek(std::size_t ahead = 0) const { return at_ + ahead < pattern_.size() ? pattern_[at_ + ahead] : '\0'; }
  bool next_is(std::string_view text) const { return std::string_view(pattern_).substr(at_).starts_with(text); }
  bool take(std::string_view text) {
    if (!next_is(text)) return false;
    at_ += text.size();
    return true;
  }
  std::uint32_t code_point() {
    const auto* begin = reinterpret_cast<const unsigned char*>(pattern_.data());
    const unsigned char* p = begin + at_;
    const std::uint32_t c = next_code_point(p);
    at_ = static_cast<std::size_t>(p - begin);
    return c;
  }

  Node alternation(int depth) {
    if (depth > kMaxDepth) unsupported("nesting of more than 100 levels");
    const Options outer = options_;
    Node node{.kind = Node::alternation};
    do node.children.push_back(sequence(depth));
    while (take("|"));
    options_ = outer;
    if (node.children.size() > 1) return node;
    return std::move(node.children[0]);
  }

  Node sequence(int depth) {
    Node node{.kind = Node::sequence};
    std::uint32_t before = 0;  // the letter before, where case is ignored
    while (more() && peek() != '|' && peek() != ')') {
      if (options_.extended && skip_comment()) continue;
      if (take("(?#")) {
        const std::size_t end = pattern_.find(')', at_);
        if (end == std::string::npos) unsupported("an unclosed (?#");
        at_ = end + 1;
        continue;
      }
      letter_ = 0;
      std::optional<Node> item = atom(depth);
      if (!item) {  // (?i) holds to the end of the group, its other alternatives included
        node.children.push_back(alternation(depth + 1));
        break;
      }
      if (letter_ != 0) check_folding(before, letter_);
      before = letter_;
      node.children.push_back(quantified(std::move(*item)));
    }
    return node;
  }

  bool skip_comment() {
    if (std::strchr(" \t\n\r\f\v", peek())) {
      ++at_;
      return true;
    }
    if (peek() != '#') return false;
    at_ = std::min(pattern_.find('\n', at_), pattern_.size());
    return true;
  }

  /// Two letters that, where case is ignored, also match one character, as ss matches U+00DF.
  void check_folding(std::uint32_t first, std::uint32_t second) const {
    for (const char* pair : {"ss", "ff", "fi", "fl", "st"})
      if (first == static_cast<unsigned char>(pair[0]) && second == static_cast<unsigned char>(pair[1]))
        unsupported(concat("\"", pair, "\" where case is ignored"));
  }

  static Node set_of(CodePointSet points) { return {.kind = Node::set, .points = std::move(points)}; }

  Node literal(std::uint32_t c) {
    if (options_.ignore_case) {
      if (c >= 128) unsupported("a character outside ASCII where case is ignored");
      if (const std::uint32_t lower = c | 32; lower >= 'a' && lower <= 'z') {
        letter_ = lower;
        CodePointSet points;
        points.add(c, c);
        return set_of(with_other_case(points));
      }
    }
    Node node{.kind = Node::literal};
    append_utf8(node.text, c);
    return node;
  }

  /// The set and the other case of its letters, which are in ASCII.
  CodePointSet with_other_case(const CodePointSet& points) const {
    CodePointSet all = points;
    for (std::uint32_t c = 'a'; c <= 'z'; ++c)
      if (points.has(c) || points.has(c - 32)) {
        all.add(c, c);
        all.add(c - 32, c - 32);
      }
    if (all.has('s')) all.add(0x17f, 0x17f);    // long s
    if (all.has('k')) all.add(0x212a, 0x212a);  // Kelvin sign
    return all;
  }

  static Node anchor(char which, bool negative = false) {
    return {.kind = Node::anchor, .negative = negative, .which = which};
  }

  /// Nothing for an option without a group, as (?i).
  std::optional<Node> atom(int depth) {
    switch (peek()) {
      case '(': return group(depth);
      case '[': {
        ++at_;
        return set_of(char_class(depth));
      }
      case '.': {
        ++at_;
        CodePointSet points;
        if (!options_.dot_all) points.add('\n', '\n');
        return set_of(points.complement());
      }
      case '^': ++at_; return anchor('^');
      case '$': ++at_; return anchor('$');
      case '\\': return escape();
      case '*':
      case '+':
      case '?': unsupported(concat("a ", peek(), " without something to repeat"));
      case '{':
        if (const std::size_t start = at_; interval()) {
          at_ = start;
          unsupported("an interval without something to repeat");
        }
        [[fallthrough]];
      default: return literal(code_point());
    }
  }

  std::optional<Node> group(int depth) {
    ++at_;
    Node node;
    if (!take("?")) {
      node = alternation(depth + 1);
    } else if (take(":")) {
      node = alternation(depth + 1);
    } else if (take(">")) {
      node = {.kind = Node::atomic, .children = {alternation(depth + 1)}};
    } else if (next_is("=") || next_is("!") || next_is("<=") || next_is("<!")) {
      const bool ahead = !take("<");
      const bool negative = peek() == '!';
      ++at_;
      node = {.kind = Node::look, .children = {alternation(depth + 1)}, .ahead = ahead, .negative = negative};
    } else if (take("<") || take("'")) {
      const std::size_t end = pattern_.find(pattern_[at_ - 1] == '<' ? '>' : '\'', at_);
      if (end == std::string::npos || pattern_.find_first_of("\\()[]", at_) < end) unsupported("this group");
      at_ = end + 1;
      node = alternation(depth + 1);
    } else {
      return option_group(depth);
    }
    if (!take(")")) unsupported("an unclosed (");
    return node;
  }

  std::optional<Node> option_group(int depth) {
    const Options outer = options_;
    for (bool on = true;; ++at_) {
      switch (peek()) {
        case '-': on = false; continue;
        case 'i': options_.ignore_case = on; continue;
        case 'm': options_.dot_all = on; continue;
        case 'x': options_.extended = on; continue;
        case ')': ++at_; return std::nullopt;
        case ':': {
          ++at_;
          Node node = alternation(depth + 1);
          options_ = outer;
          if (!take(")")) unsupported("an unclosed (");
          return node;
        }
        default: unsupported(concat("a group (?", peek()));
      }
    }
  }

  Node escape() {
    const std::size_t start = at_;
    ++at_;
    const char c = peek();
    switch (c) {
      case 'A':
      case 'z':
      case 'Z': ++at_; return anchor(c);
      case 'b':
      case 'B': ++at_; return anchor('b', c == 'B');
      case 'N':
      case 'O': {
        ++at_;
        CodePointSet points;
        if (c == 'N') points.add('\n', '\n');
        return set_of(points.complement());
      }
      default: break;
    }
    at_ = start;
    if (std::optional<CodePointSet> points = property_escape(false)) {
      if (options_.ignore_case && !points->same_in_both_cases())
        unsupported("a class of letters where case is ignored");
      return set_of(std::move(*points));
    }
    return literal(character_escape(false));
  }

  /// \d \s \w \h, their negations and \p{...}; nothing for another escape.
  std::optional<CodePointSet> property_escape(bool in_class) {
    CodePointSet points;
    const char c = peek(1);
    switch (c) {
      case 'd':
      case 'D': points.add_property("Nd"); break;
      case 's':
      case 'S': points.add_property("White_Space"); break;
      case 'w':
      case 'W':
        points.add_word();
        if (!in_class) add_lone_word(points);
        break;
      case 'h':
      case 'H':
        points.add('0', '9');
        points.add('a', 'f');
        points.add('A', 'F');
        break;
      case 'p':
      case 'P': return property(c == 'P', in_class);
      default: return std::nullopt;
    }
    at_ += 2;
    return c >= 'A' && c <= 'Z' ? points.complement() : points;
  }

  /// Outside a class, Oniguruma looks Latin-1 up in another table, in which these are word characters too.
  static void add_lone_word(CodePointSet& points) {
    for (const std::uint32_t c : {0xb2, 0xb3, 0xb9, 0xbc, 0xbd, 0xbe}) points.add(c, c);
  }

  CodePointSet property(bool negative, bool in_class) {
    const std::size_t open = at_ + 2, close = pattern_.find('}', open);
    if (peek(2) != '{' || close == std::string::npos) unsupported("\\p without a name in braces");
    std::string_view name = std::string_view(pattern_).substr(open + 1, close - open - 1);
    if (name.starts_with('^')) {
      negative = !negative;
      name.remove_prefix(1);
    }
    CodePointSet points;
    if (name == "Word" || name == "word") {
      points.add_word();
      if (!in_class) add_lone_word(points);
    } else if (!points.add_property(name)) {
      unsupported(concat("property ", name));
    }
    at_ = close + 1;
    return negative ? points.complement() : points;
  }

  std::uint32_t hexadecimal(std::size_t most) {
    std::uint32_t value = 0;
    std::size_t digits = 0;
    for (; digits < most && std::isxdigit(static_cast<unsigned char>(peek())); ++digits, ++at_)
      value = value * 16 + static_cast<std::uint32_t>(std::isdigit(static_cast<unsigned char>(peek()))
                                                          ? peek() - '0'
                                                          : (peek() | 32) - 'a' + 10);
    if (digits == 0) unsupported("an escape without digits");
    return value;
  }

  /// The character of the escape at `at_`.
  std::uint32_t character_escape(bool in_class) {
    ++at_;
    if (!more()) unsupported("a \\ at the end");
    const char c = peek();
    std::uint32_t value = 0;
    switch (c) {
      case 't': ++at_; return '\t';
      case 'n': ++at_; return '\n';
      case 'r': ++at_; return '\r';
      case 'f': ++at_; return '\f';
      case 'v': ++at_; return '\v';
      case 'a': ++at_; return '\a';
      case 'e': ++at_; return 0x1b;
      case 'b':
        if (!in_class) break;
        ++at_;
        return '\b';
      case 'x':
        ++at_;
        if (take("{")) {
          value = hexadecimal(8);
          if (!take("}")) unsupported("\\x{ without }");
        } else {
          value = hexadecimal(2);
          if (value >= 128) unsupported("\\x of a byte");
        }
        if (value > 0x10ffff || (value >= 0xd800 && value < 0xe000)) unsupported("a code point that is none");
        return value;
      case 'u': {
        ++at_;
        const std::size_t start = at_;
        value = hexadecimal(4);
        if (at_ != start + 4 || (value >= 0xd800 && value < 0xe000)) unsupported("this \\u");
        return value;
      }
      case '0':
        for (int digits = 0; digits < 3 && peek() >= '0' && peek() <= '7'; ++digits, ++at_)
          value = value * 8 + static_cast<std::uint32_t>(peek() - '0');
        if (value >= 128) unsupported("an octal escape of a byte");
        return value;
      default: break;
    }
    if (std::isalnum(static_cast<unsigned char>(c))) unsupported(concat("\\", c));
    return code_point();
  }

  /// The class after [.
  CodePointSet char_class(int depth) {
    if (depth > kMaxDepth) unsupported("nesting of more than 100 levels");
    const bool negative = take("^");
    if (peek() == ']') unsupported("a class that begins with ]");
    std::optional<CodePointSet> intersection;
    CodePointSet points;
    bool any = false, after_range = false;
    while (!take("]")) {
      if (!more()) unsupported("an unclosed [");
      if (take("&&")) {
        if (!any) unsupported("an empty side of &&");
        intersection = intersection ? intersection->intersected(points) : points;
        points = {};
        any = after_range = false;
        continue;
      }
      const bool literal_dash = peek() == '-' && (!any || after_range || peek(1) == ']');
      if (peek() == '-' && !literal_dash) unsupported("- after a class");
      after_range = false;
      any = true;
      if (std::optional<CodePointSet> item = class_item(depth)) {
        points.add(*item);
        continue;
      }
      const std::uint32_t first = class_character();
      std::uint32_t last = first;
      if (peek() == '-' && peek(1) != ']') {
        ++at_;
        if (next_is("&&") || class_item(depth)) unsupported("a range that ends in a class");
        last = class_character();
        if (last < first) unsupported("a range from a higher to a lower character");
        after_range = true;
      }
      if (literal_dash && last != first) unsupported("a range that begins with -");
      add_range(points, first, last);
    }
    if (!any) unsupported(intersection ? "an empty side of &&" : "an empty class");
    if (intersection) points = intersection->intersected(points);
    return negative ? points.complement() : points;
  }

  void add_range(CodePointSet& points, std::uint32_t first, std::uint32_t last) const {
    CodePointSet range;
    range.add(first, last);
    if (options_.ignore_case) {
      if (last >= 128) unsupported("a character outside ASCII where case is ignored");
      range = with_other_case(range);
    }
    points.add(range);
  }

  std::uint32_t class_character() { return peek() == '\\' ? character_escape(true) : code_point(); }

  /// A part of a class that is a set; nothing for a character.
  std::optional<CodePointSet> class_item(int depth) {
    if (next_is("[:")) return posix_class();
    if (take("[")) return char_class(depth + 1);
    if (peek() != '\\') return std::nullopt;
    std::optional<CodePointSet> points = property_escape(true);
    if (points && options_.ignore_case && !points->same_in_both_cases())
      unsupported("a class of letters where case is ignored");
    return points;
  }

  CodePointSet posix_class() {
    CodePointSet points;
    for (const bool negative : {false, true})
      for (const auto& [name, property] :
           {std::pair{"digit", "Nd"}, std::pair{"space", "White_Space"}, std::pair{"ascii", "ASCII"},
            std::pair{"word", ""}, std::pair{"xdigit", ""}}) {
        if (!take(concat("[:", negative ? "^" : "", name, ":]"))) continue;
        if (*property) {
          points.add_property(property);
        } else if (*name == 'w') {
          points.add_word();
        } else {
          points.add('0', '9');
          points.add('a', 'f');
          points.add('A', 'F');
        }
        if (options_.ignore_case && !points.same_in_both_cases())
          unsupported("a class of letters where case is ignored");
        return negative ? points.complement() : points;
      }
    unsupported("this [: class");
  }

  struct Interval {
    std::uint32_t min, max;
    bool fixed;  // {n}
  };
  /// The interval at `at_`, or nothing, and `at_` unchanged, where { is a character.
  std::optional<Interval> interval() {
    const std::size_t start = at_;
    ++at_;
    const auto number = [&](std::uint32_t otherwise) {
      if (!std::isdigit(static_cast<unsigned char>(peek()))) return otherwise;
      std::uint64_t value = 0;
      for (; std::isdigit(static_cast<unsigned char>(peek())); ++at_) {
        value = value * 10 + static_cast<std::uint64_t>(peek() - '0');
        if (value > kMaxRepeat) unsupported("a repetition of more than 100000");
      }
      return static_cast<std::uint32_t>(value);
    };
    const bool has_min = std::isdigit(static_cast<unsigned char>(peek()));
    Interval found{.min = number(0), .max = 0, .fixed = false};
    found.max = found.min;
    found.fixed = !take(",");
    bool has_max = false;
    if (!found.fixed) {
      has_max = std::isdigit(static_cast<unsigned char>(peek()));
      found.max = number(UINT32_MAX);
    }
    if (!take("}") || (!has_min && !has_max)) {
      at_ = start;
      return std::nullopt;
    }
    if (found.max < found.min) unsupported("an interval from a higher to a lower number");
    return found;
  }

  Node quantified(Node item) {
    while (more()) {
      if (options_.extended && skip_comment()) continue;
      std::uint32_t min = 0, max = UINT32_MAX;
      Mode mode = Mode::greedy;
      if (take("*") || take("+") || take("?")) {
        const char c = pattern_[at_ - 1];
        min = c == '+' ? 1 : 0;
        if (c == '?') max = 1;
        if (take("?"))
          mode = Mode::lazy;
        else if (take("+"))
          mode = Mode::possessive;
      } else if (peek() == '{') {
        const std::optional<Interval> found = interval();
        if (!found) break;
        min = found->min;
        max = found->max;
        // {n}? is an optional {n}, and a + after any interval repeats it.
        if (!found->fixed && take("?")) mode = Mode::lazy;
      } else {
        break;
      }
      if (item.kind == Node::look || item.kind == Node::anchor) unsupported("a repeated assertion");
      Node repeat{.kind = Node::repeat, .children = {}, .min = min, .max = max, .mode = mode};
      repeat.children.push_back(std::move(item));
      item = std::move(repeat);
    }
    return item;
  }

  const std::string& pattern_;
  std::size_t at_ = 0;
  Options options_;
  std::uint32_t letter_ = 0;  // of the last atom, where case is ignored
};

}  // namespace

RegexNode parse_regex(const std::string& pattern) { return Parser(pattern).parse(); }

void fail_unsupported(const std::string& pattern, std::size_t at, const std::string& what) {
  fail("tokenizer pattern ", with_escapes(pattern), ": column ", at + 1, ": ", what, " is not supported");
}

std::string with_escapes(const std::string& pattern) {
  std::string out;
  for (const char c : pattern) out += c == '\n' ? "\\n" : c == '\r' ? "\\r" : std::string(1, c);
  return out;
}

}  // namespace ssa
