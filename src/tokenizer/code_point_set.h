// Sets of code points, as the character classes of a pattern combine them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>

#include "ssa/tokenizer/unicode.h"

namespace ssa {

class CodePointSet {
 public:
  /// Sorted, disjoint, not adjacent.
  const CodePointRanges& ranges() const { return ranges_; }

  bool has(std::uint32_t c) const {
    return std::any_of(ranges_.begin(), ranges_.end(), [&](const auto& r) { return r.first <= c && c <= r.second; });
  }

  void add(std::uint32_t first, std::uint32_t last) {
    ranges_.emplace_back(first, last);
    unite();
  }
  void add(const CodePointSet& other) {
    ranges_.insert(ranges_.end(), other.ranges_.begin(), other.ranges_.end());
    unite();
  }
  /// False if there is no such property.
  bool add_property(std::string_view name) {
    const bool known = append_property(name, ranges_);
    unite();
    return known;
  }
  void add_word() {
    append_word(ranges_);
    unite();
  }

  CodePointSet complement() const {
    CodePointSet out;
    std::uint32_t next = 0;
    for (const auto& [first, last] : ranges_) {
      if (first > next) out.ranges_.emplace_back(next, first - 1);
      next = last + 1;
    }
    if (next <= kLast) out.ranges_.emplace_back(next, kLast);
    return out;
  }
  CodePointSet intersected(const CodePointSet& other) const {
    CodePointSet either = complement();
    either.add(other.complement());
    return either.complement();
  }

  /// Whether no character with another case is in the set: it has no letter, nor a symbol or number with case.
  bool same_in_both_cases() const {
    CodePointSet cased;
    for (const char* property : {"L", "M", "So", "Nl"}) cased.add_property(property);
    return intersected(cased).ranges_.empty();
  }

 private:
  static constexpr std::uint32_t kLast = 0x10ffff;

  void unite() {
    std::sort(ranges_.begin(), ranges_.end());
    CodePointRanges out;
    for (const auto& [first, last] : ranges_) {
      if (!out.empty() && first <= out.back().second + 1)
        out.back().second = std::max(out.back().second, last);
      else
        out.emplace_back(first, last);
    }
    ranges_ = std::move(out);
  }

  CodePointRanges ranges_;
};

}  // namespace ssa
