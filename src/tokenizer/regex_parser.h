// The first step of a Regex: reading a pattern into a tree.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "src/tokenizer/code_point_set.h"

namespace ssa {

struct RegexNode {
  enum Kind { empty, literal, set, sequence, alternation, repeat, atomic, look, anchor } kind = empty;
  std::string text = {};                    // literal: one character
  CodePointSet points = {};                 // set
  std::vector<RegexNode> children = {};     // repeat, atomic, look: one
  std::uint32_t min = 0, max = UINT32_MAX;  // repeat
  enum class Mode { greedy, lazy, possessive } mode = Mode::greedy;
  bool ahead = true, negative = false;  // look; anchor: negative
  char which = '\0';                    // anchor: ^ $ A z Z b
};

/// Throws Error naming the pattern, the construct and its column for what is not supported.
RegexNode parse_regex(const std::string& pattern);

/// Throws that Error. `at`: the byte of the pattern at which the construct ends.
[[noreturn]] void fail_unsupported(const std::string& pattern, std::size_t at, const std::string& what);

/// The pattern with its line ends, \n and \r, as escapes.
std::string with_escapes(const std::string& pattern);

}  // namespace ssa
