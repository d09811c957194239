#include "src/tokenizer/regex.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>

#include "src/tokenizer/code_point_set.h"
#include "ssa/base/error.h"
#include "ssa/tokenizer/utf8.h"

namespace ssa {
namespace {

constexpr std::size_t kMaxOps = 1 << 16;
constexpr std::uint32_t kMaxRepeat = 100000;  // Oniguruma's
constexpr int kMaxDepth = 100;
constexpr std::uint64_t kMaxSteps = 1'000'000'000;

enum class Mode { greedy, lazy, possessive };

std::string one_line(const std::string& pattern) {
  std::string line;
  for (const char c : pattern) line += c == '\n' ? "\\n" : c == '\r' ? "\\r" : std::string(1, c);
  return line;
}

struct Node {
  enum Kind { empty, literal, set, sequence, alternation, repeat, atomic, look, anchor } kind = empty;
  std::string text = {};                    // literal: one character
  CodePointSet points = {};                 // set
  std::vector<Node> children = {};          // repeat, atomic, look: one
  std::uint32_t min = 0, max = UINT32_MAX;  // repeat
  Mode mode = Mode::greedy;
  bool ahead = true, negative = false;  // look; anchor: negative
  char which = '\0';                    // anchor: ^ $ A z Z b
};

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

  [[noreturn]] void unsupported(const std::string& what) const {
    fail("tokenizer pattern ", one_line(pattern_), ": column ", at_ + 1, ": ", what, " is not supported");
  }

 private:
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

/// Turns the tree into the operations of a Regex.
class RegexCompiler {
 public:
  RegexCompiler(Regex& regex, const Parser& parser) : regex_(regex), parser_(parser) {}

  void compile(const Node& node) {
    emit(node);
    add({.code = Code::match});
    regex_.first_ = first_index(node);
  }

 private:
  using Code = Regex::Code;
  using Op = Regex::Op;
  using Bytes = std::array<std::uint64_t, 4>;

  std::uint32_t here() const { return static_cast<std::uint32_t>(regex_.ops_.size()); }
  std::uint32_t add(Op op) {
    if (regex_.ops_.size() >= kMaxOps) parser_.unsupported("a pattern of this size");
    regex_.ops_.push_back(op);
    return here() - 1;
  }
  Op& op(std::uint32_t index) { return regex_.ops_[index]; }

  static CodePointSet points_of(const Node& node) {
    if (node.kind == Node::set) return node.points;
    CodePointSet points;
    const auto* p = reinterpret_cast<const unsigned char*>(node.text.data());
    const std::uint32_t c = next_code_point(p);
    points.add(c, c);
    return points;
  }
  static bool is_character(const Node& node) { return node.kind == Node::set || node.kind == Node::literal; }

  std::uint32_t set_index(const CodePointSet& points) {
    const auto [it, inserted] = known_.try_emplace(points.ranges(), static_cast<std::uint32_t>(regex_.sets_.size()));
    if (inserted) regex_.sets_.push_back(compiled(points));
    return it->second;
  }

  static Regex::Set compiled(const CodePointSet& points) {
    std::vector<Bytes> flat(0x1100);
    for (const auto& [first, last] : points.ranges())
      for (std::uint32_t c = first; c <= last; ++c) flat[c >> 8][c >> 6 & 3] |= std::uint64_t{1} << (c & 63);
    Regex::Set set;
    set.ascii = {flat[0][0], flat[0][1]};
    std::map<Bytes, std::uint16_t> known;
    for (std::size_t block = 0; block < flat.size(); ++block) {
      const auto [it, inserted] = known.try_emplace(flat[block], static_cast<std::uint16_t>(set.blocks.size()));
      if (inserted) set.blocks.push_back(flat[block]);
      set.block_of[block] = it->second;
    }
    return set;
  }

  /// Adds the bytes that a match of `node` may begin with; true if a match may be empty.
  bool add_first(const Node& node, Bytes& bytes) {
    const auto add_byte = [&](unsigned char byte) { bytes[byte >> 6] |= std::uint64_t{1} << (byte & 63); };
    switch (node.kind) {
      case Node::literal: add_byte(static_cast<unsigned char>(node.text[0])); return false;
      case Node::set:
        for (const auto& [first, last] : node.points.ranges()) {
          std::string low, high;
          append_utf8(low, first >= 0xd800 && first < 0xe000 ? 0xe000 : first);
          append_utf8(high, last >= 0xd800 && last < 0xe000 ? 0xd7ff : last);
          for (unsigned byte = static_cast<unsigned char>(low[0]); byte <= static_cast<unsigned char>(high[0]); ++byte)
            if ((byte & 0xc0) != 0x80) add_byte(static_cast<unsigned char>(byte));
        }
        return false;
      case Node::sequence:
        for (const Node& child : node.children)
          if (!add_first(child, bytes)) return false;
        return true;
      case Node::alternation: {
        bool empty = false;
        for (const Node& child : node.children) empty |= add_first(child, bytes);
        return empty;
      }
      case Node::repeat: return add_first(node.children[0], bytes) || node.min == 0;
      case Node::atomic: return add_first(node.children[0], bytes);
      case Node::look:
      case Node::anchor:
      case Node::empty: break;
    }
    return true;
  }

  /// The index of the bytes that a match of `node` may begin with; kNone if it may be empty.
  std::uint32_t first_index(const Node& node) {
    Bytes bytes{};
    if (add_first(node, bytes)) return Regex::kNone;
    regex_.first_bytes_.push_back(bytes);
    return static_cast<std::uint32_t>(regex_.first_bytes_.size() - 1);
  }

  void emit(const Node& node) {
    switch (node.kind) {
      case Node::empty: return;
      case Node::literal:
        add({.code = Code::bytes,
             .a = static_cast<std::uint32_t>(regex_.literals_.size()),
             .b = static_cast<std::uint32_t>(node.text.size())});
        regex_.literals_ += node.text;
        return;
      case Node::set: add({.code = Code::set, .a = set_index(node.points)}); return;
      case Node::sequence:
        for (const Node& child : node.children) emit(child);
        return;
      case Node::alternation: return emit_alternation(node);
      case Node::repeat: return emit_repeat(node);
      case Node::atomic:
        add({.code = Code::atomic_begin});
        emit(node.children[0]);
        add({.code = Code::atomic_end});
        return;
      case Node::look: return emit_look(node);
      case Node::anchor: return emit_anchor(node);
    }
  }

  void emit_alternation(const Node& node) {
    std::vector<std::uint32_t> jumps;
    for (std::size_t i = 0; i < node.children.size(); ++i) {
      const bool last = i + 1 == node.children.size();
      std::uint32_t split = 0;
      if (!last) {
        split = add({.code = Code::split, .first = first_index(node.children[i])});
        op(split).a = here();
      }
      emit(node.children[i]);
      if (last) break;
      jumps.push_back(add({.code = Code::jump}));
      op(split).b = here();
    }
    for (const std::uint32_t jump : jumps) op(jump).a = here();
  }

  void emit_repeat(const Node& node) {
    const Node& child = node.children[0];
    if (is_character(child)) {
      add({.code = Code::loop,
           .a = set_index(points_of(child)),
           .b = node.mode == Mode::greedy ? Regex::kGreedy
                : node.mode == Mode::lazy ? Regex::kLazy
                                          : Regex::kPossessive,
           .min = node.min,
           .max = node.max});
      return;
    }
    const bool possessive = node.mode == Mode::possessive, lazy = node.mode == Mode::lazy;
    if (possessive) add({.code = Code::atomic_begin});
    for (std::uint32_t i = 0; i < node.min; ++i) emit(child);
    const std::uint32_t first = lazy ? Regex::kNone : first_index(child);
    std::vector<std::uint32_t> splits;
    const auto enter = [&] {
      const std::uint32_t split = add({.code = Code::split, .first = first});
      splits.push_back(split);
      (lazy ? op(split).b : op(split).a) = here();
    };
    if (node.max == UINT32_MAX) {
      const std::uint32_t start = here();
      const auto slot = static_cast<std::uint32_t>(regex_.slots_++);
      enter();
      add({.code = Code::loop_enter, .a = slot});
      emit(child);
      const std::uint32_t check = add({.code = Code::loop_check, .a = slot});
      add({.code = Code::jump, .a = start});
      op(check).b = here();
    } else {
      for (std::uint32_t i = node.min; i < node.max; ++i) {
        enter();
        emit(child);
      }
    }
    for (const std::uint32_t split : splits) (lazy ? op(split).a : op(split).b) = here();
    if (possessive) add({.code = Code::atomic_end});
  }

  void emit_look(const Node& node) {
    const Node* child = &node.children[0];
    while (child->kind == Node::sequence && child->children.size() == 1) child = &child->children[0];
    if (node.ahead && is_character(*child)) {
      add({.code = Code::look_set, .a = set_index(points_of(*child)), .b = !node.negative});
      return;
    }
    const std::uint32_t begin = add({.code = node.negative ? Code::not_begin : Code::look_begin});
    if (!node.ahead) add({.code = Code::behind, .a = length_of(*child)});
    emit(*child);
    add({.code = node.negative ? Code::not_end : Code::look_end});
    op(begin).a = here();
  }

  /// The characters of what a look-behind matches.
  std::uint32_t length_of(const Node& node) const {
    if (is_character(node)) return 1;
    if (node.kind == Node::anchor || node.kind == Node::empty || node.kind == Node::look) return 0;
    if (node.kind == Node::atomic) return length_of(node.children[0]);
    if (node.kind == Node::repeat && node.min == node.max) return node.min * length_of(node.children[0]);
    if (node.kind == Node::sequence) {
      std::uint32_t sum = 0;
      for (const Node& child : node.children) sum += length_of(child);
      return sum;
    }
    if (node.kind == Node::alternation) {
      const std::uint32_t length = length_of(node.children[0]);
      for (const Node& child : node.children)
        if (length_of(child) != length) parser_.unsupported("a look-behind of varying length");
      return length;
    }
    parser_.unsupported("a look-behind of varying length");
  }

  void emit_anchor(const Node& node) {
    switch (node.which) {
      case '^': add({.code = Code::line_begin}); return;
      case '$': add({.code = Code::line_end}); return;
      case 'A': add({.code = Code::text_begin}); return;
      case 'z': add({.code = Code::text_end}); return;
      case 'Z': add({.code = Code::last_line_end}); return;
      default: add({.code = Code::word_boundary, .b = !node.negative}); return;
    }
  }

  Regex& regex_;
  const Parser& parser_;
  std::map<CodePointRanges, std::uint32_t> known_;
};

Regex::Regex(const std::string& pattern) : pattern_(pattern) {
  Parser parser(pattern_);
  const Node node = parser.parse();
  RegexCompiler(*this, parser).compile(node);
}

bool Regex::Matcher::find(const Byte* from, const Byte*& start, const Byte*& stop) {
  const std::array<std::uint64_t, 4>* const first =
      regex_.first_ == kNone ? nullptr : &regex_.first_bytes_[regex_.first_];
  for (const Byte* at = from;; ++at) {
    if (first) {
      while (at != end_ && !((*first)[*at >> 6] >> (*at & 63) & 1)) ++at;
      if (at == end_) return false;
    } else {
      while (at != end_ && (*at & 0xc0) == 0x80) ++at;
    }
    if (const Byte* const matched = match(at)) {
      start = at;
      stop = matched;
      return true;
    }
    if (at == end_) return false;
  }
}

bool Regex::Matcher::word_at(const Byte* at) const {
  static const Set word = [] {
    Regex lone("\\w");
    return lone.sets_[0];
  }();
  if (at == end_) return false;
  return word.has(next_code_point(at));
}

/// The end of the match that starts at `at`; null if there is none.
const unsigned char* Regex::Matcher::match(const Byte* at) {
  const auto step_back = [](const Byte* p) {
    do --p;
    while ((*p & 0xc0) == 0x80);
    return p;
  };
  /// Moves p past a character of the set.
  const auto take = [&](const Set& set, const Byte*& p) {
    if (p == end_) return false;
    if (*p < 0x80) {
      if (!set.has_byte(*p)) return false;
      ++p;
      return true;
    }
    const Byte* next = p;
    if (!set.has(next_code_point(next))) return false;
    p = next;
    return true;
  };
  const auto cut_to_mark = [&] {
    while (stack_.back().kind != Kind::mark) {
      // The slots keep their values: a loop that is entered again sets its slot first.
      stack_.pop_back();
    }
    const Entry mark = stack_.back();
    stack_.pop_back();
    return mark;
  };
  stack_.clear();
  std::uint32_t pc = 0;
  std::uint64_t steps = 0;
  while (true) {
    if (++steps > kMaxSteps)
      fail("tokenizer pattern ", one_line(regex_.pattern_), ": more than ", kMaxSteps, " steps for a match");
    const Op& op = regex_.ops_[pc];
    bool good = true;
    switch (op.code) {
      case Code::match: return at;
      case Code::bytes:
        good =
            static_cast<std::size_t>(end_ - at) >= op.b && std::memcmp(at, regex_.literals_.data() + op.a, op.b) == 0;
        if (good) at += op.b;
        ++pc;
        break;
      case Code::set:
        good = take(regex_.sets_[op.a], at);
        ++pc;
        break;
      case Code::loop: {
        const Set& set = regex_.sets_[op.a];
        std::uint32_t count = 0;
        while (count < op.min && take(set, at)) ++count;
        good = count == op.min;
        if (good && op.b == kLazy) {
          if (count < op.max) stack_.push_back({Kind::longer, pc, at, nullptr, count});
        } else if (good) {
          const Byte* const low = at;
          if (op.max == kNoLimit)
            while (take(set, at)) {
            }
          else
            while (count < op.max && take(set, at)) ++count;
          if (op.b == kGreedy && at != low) stack_.push_back({Kind::shorter, pc + 1, at, low, 0});
        }
        ++pc;
        break;
      }
      case Code::split:
        if (op.first != kNone) {
          const auto& first = regex_.first_bytes_[op.first];
          if (at == end_ || !(first[*at >> 6] >> (*at & 63) & 1)) {
            pc = op.b;
            break;
          }
        }
        stack_.push_back({Kind::alternative, op.b, at, nullptr, 0});
        pc = op.a;
        break;
      case Code::jump: pc = op.a; break;
      case Code::loop_enter:
        stack_.push_back({Kind::slot, op.a, slots_[op.a], nullptr, 0});
        slots_[op.a] = at;
        ++pc;
        break;
      case Code::loop_check: pc = slots_[op.a] == at ? op.b : pc + 1; break;
      case Code::atomic_begin:
      case Code::look_begin:
        stack_.push_back({Kind::mark, kNone, at, nullptr, 0});
        ++pc;
        break;
      case Code::atomic_end:
        cut_to_mark();
        ++pc;
        break;
      case Code::look_end:
        at = cut_to_mark().at;
        ++pc;
        break;
      case Code::not_begin:
        stack_.push_back({Kind::mark, op.a, at, nullptr, 0});
        ++pc;
        break;
      case Code::not_end:
        cut_to_mark();
        good = false;
        break;
      case Code::look_set: {
        const Byte* p = at;
        good = take(regex_.sets_[op.a], p) == (op.b != 0);
        ++pc;
        break;
      }
      case Code::behind:
        for (std::uint32_t i = 0; good && i < op.a; ++i) {
          good = at != begin_;
          if (good) at = step_back(at);
        }
        ++pc;
        break;
      case Code::line_begin:
        good = at == begin_ || (at[-1] == '\n' && at != end_);
        ++pc;
        break;
      case Code::line_end:
        good = at == end_ ? at == begin_ || at[-1] != '\n' : *at == '\n';
        ++pc;
        break;
      case Code::text_begin:
        good = at == begin_;
        ++pc;
        break;
      case Code::text_end:
        good = at == end_;
        ++pc;
        break;
      case Code::last_line_end:
        good = at == end_ ? at == begin_ || at[-1] != '\n' : at + 1 == end_ && *at == '\n';
        ++pc;
        break;
      case Code::word_boundary: {
        const bool before = at != begin_ && word_at(step_back(at));
        good = (before != word_at(at)) == (op.b != 0);
        ++pc;
        break;
      }
    }
    while (!good) {
      if (stack_.empty()) return nullptr;
      Entry& entry = stack_.back();
      switch (entry.kind) {
        case Kind::alternative:
          pc = entry.op;
          at = entry.at;
          stack_.pop_back();
          good = true;
          break;
        case Kind::shorter:
          at = step_back(entry.at);
          pc = entry.op;
          if (at == entry.low)
            stack_.pop_back();
          else
            entry.at = at;
          good = true;
          break;
        case Kind::longer: {
          const Op& loop = regex_.ops_[entry.op];
          at = entry.at;
          if (take(regex_.sets_[loop.a], at)) {
            pc = entry.op + 1;
            if (++entry.count == loop.max)
              stack_.pop_back();
            else
              entry.at = at;
            good = true;
          } else {
            stack_.pop_back();
          }
          break;
        }
        case Kind::mark:
          good = entry.op != kNone;  // of a negative look-around, which succeeds as its content failed
          at = entry.at;
          pc = entry.op;
          stack_.pop_back();
          break;
        case Kind::slot:
          slots_[entry.op] = entry.at;
          stack_.pop_back();
          break;
      }
    }
  }
}

}  // namespace ssa
