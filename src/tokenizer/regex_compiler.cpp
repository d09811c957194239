// The second step of a Regex: turning the tree into operations.
#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "src/tokenizer/code_point_set.h"
#include "src/tokenizer/regex.h"
#include "src/tokenizer/regex_parser.h"
#include "ssa/tokenizer/utf8.h"

namespace ssa {
namespace {

constexpr std::size_t kMaxOps = 1 << 16;

}  // namespace

/// Turns the tree into the operations of a Regex.
class RegexCompiler {
 public:
  explicit RegexCompiler(Regex& regex) : regex_(regex) {}

  void compile(const RegexNode& node) {
    emit(node);
    add({.code = Code::match});
    regex_.first_ = first_index(node);
  }

 private:
  using Code = Regex::Code;
  using Op = Regex::Op;
  using Bytes = std::array<std::uint64_t, 4>;

  [[noreturn]] void unsupported(const std::string& what) const {
    fail_unsupported(regex_.pattern_, regex_.pattern_.size(), what);
  }
  std::uint32_t here() const { return static_cast<std::uint32_t>(regex_.ops_.size()); }
  std::uint32_t add(Op op) {
    if (regex_.ops_.size() >= kMaxOps) unsupported("a pattern of this size");
    regex_.ops_.push_back(op);
    return here() - 1;
  }
  Op& op(std::uint32_t index) { return regex_.ops_[index]; }

  static CodePointSet points_of(const RegexNode& node) {
    if (node.kind == RegexNode::set) return node.points;
    CodePointSet points;
    const auto* p = reinterpret_cast<const unsigned char*>(node.text.data());
    const std::uint32_t c = next_code_point(p);
    points.add(c, c);
    return points;
  }
  static bool is_character(const RegexNode& node) {
    return node.kind == RegexNode::set || node.kind == RegexNode::literal;
  }

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
  bool add_first(const RegexNode& node, Bytes& bytes) {
    const auto add_byte = [&](unsigned char byte) { bytes[byte >> 6] |= std::uint64_t{1} << (byte & 63); };
    switch (node.kind) {
      case RegexNode::literal: add_byte(static_cast<unsigned char>(node.text[0])); return false;
      case RegexNode::set:
        for (const auto& [first, last] : node.points.ranges()) {
          std::string low, high;
          append_utf8(low, first >= 0xd800 && first < 0xe000 ? 0xe000 : first);
          append_utf8(high, last >= 0xd800 && last < 0xe000 ? 0xd7ff : last);
          for (unsigned byte = static_cast<unsigned char>(low[0]); byte <= static_cast<unsigned char>(high[0]); ++byte)
            if ((byte & 0xc0) != 0x80) add_byte(static_cast<unsigned char>(byte));
        }
        return false;
      case RegexNode::sequence:
        for (const RegexNode& child : node.children)
          if (!add_first(child, bytes)) return false;
        return true;
      case RegexNode::alternation: {
        bool empty = false;
        for (const RegexNode& child : node.children) empty |= add_first(child, bytes);
        return empty;
      }
      case RegexNode::repeat: return add_first(node.children[0], bytes) || node.min == 0;
      case RegexNode::atomic: return add_first(node.children[0], bytes);
      case RegexNode::look:
      case RegexNode::anchor:
      case RegexNode::empty: break;
    }
    return true;
  }

  /// The index of the bytes that a match of `node` may begin with; kNone if it may be empty.
  std::uint32_t first_index(const RegexNode& node) {
    Bytes bytes{};
    if (add_first(node, bytes)) return Regex::kNone;
    regex_.first_bytes_.push_back(bytes);
    return static_cast<std::uint32_t>(regex_.first_bytes_.size() - 1);
  }

  void emit(const RegexNode& node) {
    switch (node.kind) {
      case RegexNode::empty: return;
      case RegexNode::literal:
        add({.code = Code::bytes,
             .a = static_cast<std::uint32_t>(regex_.literals_.size()),
             .b = static_cast<std::uint32_t>(node.text.size())});
        regex_.literals_ += node.text;
        return;
      case RegexNode::set: add({.code = Code::set, .a = set_index(node.points)}); return;
      case RegexNode::sequence:
        for (const RegexNode& child : node.children) emit(child);
        return;
      case RegexNode::alternation: return emit_alternation(node);
      case RegexNode::repeat: return emit_repeat(node);
      case RegexNode::atomic:
        add({.code = Code::atomic_begin});
        emit(node.children[0]);
        add({.code = Code::atomic_end});
        return;
      case RegexNode::look: return emit_look(node);
      case RegexNode::anchor: return emit_anchor(node);
    }
  }

  void emit_alternation(const RegexNode& node) {
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

  void emit_repeat(const RegexNode& node) {
    const RegexNode& child = node.children[0];
    if (is_character(child)) {
      add({.code = Code::loop,
           .a = set_index(points_of(child)),
           .b = node.mode == RegexNode::Mode::greedy ? Regex::kGreedy
                : node.mode == RegexNode::Mode::lazy ? Regex::kLazy
                                                     : Regex::kPossessive,
           .min = node.min,
           .max = node.max});
      return;
    }
    const bool possessive = node.mode == RegexNode::Mode::possessive, lazy = node.mode == RegexNode::Mode::lazy;
    if (possessive) add({.code = Code::atomic_begin});
    for (std::uint32_t i = 0; i < node.min; ++i) {
      const std::uint32_t before = here();
      emit(child);
      if (here() == before) break;  // empty: more of it is the same, and no limit of operations would end the loop
    }
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

  void emit_look(const RegexNode& node) {
    const RegexNode* child = &node.children[0];
    while (child->kind == RegexNode::sequence && child->children.size() == 1) child = &child->children[0];
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
  std::uint32_t length_of(const RegexNode& node) const {
    if (is_character(node)) return 1;
    if (node.kind == RegexNode::anchor || node.kind == RegexNode::empty || node.kind == RegexNode::look) return 0;
    if (node.kind == RegexNode::atomic) return length_of(node.children[0]);
    if (node.kind == RegexNode::repeat && node.min == node.max) return node.min * length_of(node.children[0]);
    if (node.kind == RegexNode::sequence) {
      std::uint32_t sum = 0;
      for (const RegexNode& child : node.children) sum += length_of(child);
      return sum;
    }
    if (node.kind == RegexNode::alternation) {
      const std::uint32_t length = length_of(node.children[0]);
      for (const RegexNode& child : node.children)
        if (length_of(child) != length) unsupported("a look-behind of varying length");
      return length;
    }
    unsupported("a look-behind of varying length");
  }

  void emit_anchor(const RegexNode& node) {
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
  std::map<CodePointRanges, std::uint32_t> known_;
};

Regex::Regex(const std::string& pattern) : pattern_(pattern) { RegexCompiler(*this).compile(parse_regex(pattern_)); }

}  // namespace ssa
