#include "ssa/tokenizer/unicode.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <unordered_map>
#include <utility>

#include "ssa/tokenizer/utf8.h"

namespace ssa {
namespace {

struct Range {
  std::uint32_t first, last;
};
struct CategoryRange {
  std::uint32_t first, last;
  std::uint8_t category;
};
struct ScriptRange {
  std::uint32_t first, last;
  std::uint8_t script;
};
struct ScriptName {
  std::string_view code, name;
};
struct Decomposition {
  std::uint32_t code_point, first, second;
};
struct Composition {
  std::uint32_t first, second, code_point;
};
struct Combining {
  std::uint32_t first, last;
  std::uint8_t combining_class;
};

#include "src/tokenizer/unicode_data.inc"

constexpr std::uint32_t kLastCodePoint = 0x10ffff;
constexpr std::uint32_t kJoiners[] = {0x200c, 0x200d};

/// The two letters of a category.
std::string_view category_of(const CategoryRange& range) {
  return kCategories.substr(2 * std::size_t{range.category}, 2);
}
bool is_word_category(std::string_view category) {
  return category[0] == 'L' || category[0] == 'M' || category == "Nd" || category == "Nl" || category == "Pc";
}

/// A flat table of class bits while it is made.
struct FlatTable {
  std::vector<std::uint8_t> bits = std::vector<std::uint8_t>(kLastCodePoint + 1);

  template <class Ranges>
  void mark(const Ranges& ranges, std::uint8_t bit) {
    for (const auto& range : ranges) mark_range(range, bit);
  }
  template <class OneRange>
  void mark_range(const OneRange& range, std::uint8_t bit) {
    for (std::uint32_t c = range.first; c <= range.last; ++c) bits[c] |= bit;
  }
};

// Hangul syllables, by the formulas of Unicode 3.12.
constexpr std::uint32_t kSBase = 0xac00, kLBase = 0x1100, kVBase = 0x1161, kTBase = 0x11a7;
constexpr std::uint32_t kLCount = 19, kVCount = 21, kTCount = 28, kSCount = kLCount * kVCount * kTCount;

struct NfcData {
  std::unordered_map<std::uint32_t, std::pair<std::uint32_t, std::uint32_t>> decompositions;
  std::unordered_map<std::uint64_t, std::uint32_t> compositions;
  std::unordered_map<std::uint32_t, std::uint8_t> combining;

  NfcData() {
    for (const auto& d : kDecompositions) decompositions[d.code_point] = {d.first, d.second};
    for (const auto& c : kCompositions) compositions[key(c.first, c.second)] = c.code_point;
    for (const auto& r : kCombiningRanges)
      for (std::uint32_t c = r.first; c <= r.last; ++c) combining[c] = r.combining_class;
  }
  static const NfcData& get() {
    static const NfcData data;
    return data;
  }
  static std::uint64_t key(std::uint32_t first, std::uint32_t second) {
    return static_cast<std::uint64_t>(first) << 32 | second;
  }

  std::uint8_t combining_class(std::uint32_t c) const {
    const auto it = combining.find(c);
    return it == combining.end() ? 0 : it->second;
  }

  void decompose(std::uint32_t c, std::vector<std::uint32_t>& out) const {
    if (c - kSBase < kSCount) {
      const std::uint32_t s = c - kSBase;
      out.push_back(kLBase + s / (kVCount * kTCount));
      out.push_back(kVBase + s % (kVCount * kTCount) / kTCount);
      if (s % kTCount) out.push_back(kTBase + s % kTCount);
      return;
    }
    const auto it = decompositions.find(c);
    if (it == decompositions.end()) {
      out.push_back(c);
      return;
    }
    decompose(it->second.first, out);
    if (it->second.second) decompose(it->second.second, out);
  }

  /// The primary composite of two code points, or 0.
  std::uint32_t compose(std::uint32_t a, std::uint32_t b) const {
    if (a - kLBase < kLCount && b - kVBase < kVCount) return kSBase + ((a - kLBase) * kVCount + (b - kVBase)) * kTCount;
    if (a - kSBase < kSCount && (a - kSBase) % kTCount == 0 && b - kTBase - 1 < kTCount - 1) return a + (b - kTBase);
    const auto it = compositions.find(key(a, b));
    return it == compositions.end() ? 0 : it->second;
  }
};

/// Canonical order, then canonical composition (Unicode 3.11), of one decomposed stretch.
void order_and_compose(const NfcData& data, std::vector<std::uint32_t>& text) {
  std::vector<std::pair<std::uint8_t, std::uint32_t>> chars(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) chars[i] = {data.combining_class(text[i]), text[i]};
  for (std::size_t i = 0; i < chars.size();) {
    std::size_t end = i + 1;
    if (chars[i].first != 0) {
      while (end < chars.size() && chars[end].first != 0) ++end;
      std::stable_sort(chars.begin() + static_cast<std::ptrdiff_t>(i), chars.begin() + static_cast<std::ptrdiff_t>(end),
                       [](const auto& a, const auto& b) { return a.first < b.first; });
    }
    i = end;
  }
  text.clear();
  std::size_t starter = SIZE_MAX;
  std::uint8_t last_class = 0;  // of the last character kept after the starter; 0 if there is none
  for (const auto& [combining_class, c] : chars) {
    if (starter != SIZE_MAX) {
      const bool adjacent = text.size() == starter + 1;
      if (adjacent || (last_class != 0 && last_class < combining_class)) {
        if (const std::uint32_t composite = data.compose(text[starter], c)) {
          text[starter] = composite;
          continue;
        }
      }
    }
    if (combining_class == 0) starter = text.size();
    last_class = combining_class;
    text.push_back(c);
  }
}

}  // namespace

const UnicodeTable& UnicodeTable::get() {
  static const UnicodeTable table;
  return table;
}

CodePointTable::CodePointTable(const std::vector<std::uint8_t>& flat) {
  std::unordered_map<std::string, std::uint16_t> known;
  for (std::size_t block = 0; block < block_of_.size(); ++block) {
    const auto begin = flat.begin() + static_cast<std::ptrdiff_t>(block << 8);
    const std::string bytes(begin, begin + 256);
    const auto [it, inserted] = known.try_emplace(bytes, static_cast<std::uint16_t>(known.size()));
    if (inserted) blocks_.insert(blocks_.end(), bytes.begin(), bytes.end());
    block_of_[block] = it->second;
  }
}

namespace {

std::vector<std::uint8_t> class_bits() {
  FlatTable table;
  for (const CategoryRange& range : kCategoryRanges) {
    const std::string_view category = category_of(range);
    if (category[0] == 'L') table.mark_range(range, kLetter);
    if (category[0] == 'N') table.mark_range(range, kNumber | kNumeric);
    if (is_word_category(category)) table.mark_range(range, kWord);
  }
  table.mark(kNumbersOf17, kNumeric);
  table.mark(kSpaceRanges, kSpace);
  table.mark(kOtherAlphabetic, kWord);
  for (const std::uint32_t joiner : kJoiners) table.bits[joiner] |= kWord;
  table.mark(kCombiningRanges, kNfcMark);
  std::unordered_map<std::uint32_t, bool> composed;
  for (const auto& c : kCompositions) {
    composed[c.code_point] = true;
    table.bits[c.second] |= kNfcMark;
  }
  for (const auto& d : kDecompositions)
    if (!composed.count(d.code_point)) table.bits[d.code_point] |= kNfcMark;
  for (std::uint32_t i = 0; i < kVCount; ++i) table.bits[kVBase + i] |= kNfcMark;
  for (std::uint32_t i = 1; i < kTCount; ++i) table.bits[kTBase + i] |= kNfcMark;
  return std::move(table.bits);
}

std::vector<std::uint8_t> case_bits() {
  FlatTable table;
  for (const CategoryRange& range : kCategoryRanges) {
    const std::string_view category = category_of(range);
    const bool mark = category[0] == 'M', both = mark || category == "Lm" || category == "Lo";
    std::uint8_t bits = 0;
    if (both || category == "Lu" || category == "Lt") bits |= kUpperPart;
    if (both || category == "Ll") bits |= kLowerPart;
    if (mark) bits |= kMark;
    if (category[0] == 'P' || category[0] == 'S') bits |= kPunctuation;
    if (category[0] == 'L') bits |= kAnyLetter;
    if (category[0] == 'N') bits |= kAnyNumber;
    table.mark_range(range, bits);
  }
  table.mark(kSpaceRanges, kAnySpace);
  return std::move(table.bits);
}

/// The form in which names of properties are compared: in lower case, without spaces, '-' and '_'.
std::string plain_name(std::string_view name) {
  std::string plain;
  for (const char c : name)
    if (c != ' ' && c != '-' && c != '_') plain += static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  return plain;
}

constexpr std::pair<std::string_view, std::string_view> kLongCategories[] = {
    {"l", "letter"},
    {"lu", "uppercaseletter"},
    {"ll", "lowercaseletter"},
    {"lt", "titlecaseletter"},
    {"lm", "modifierletter"},
    {"lo", "otherletter"},
    {"m", "mark"},
    {"m", "combiningmark"},
    {"mn", "nonspacingmark"},
    {"mc", "spacingmark"},
    {"me", "enclosingmark"},
    {"n", "number"},
    {"nd", "decimalnumber"},
    {"nl", "letternumber"},
    {"no", "othernumber"},
    {"p", "punctuation"},
    {"p", "punct"},
    {"pc", "connectorpunctuation"},
    {"pd", "dashpunctuation"},
    {"ps", "openpunctuation"},
    {"pe", "closepunctuation"},
    {"pi", "initialpunctuation"},
    {"pf", "finalpunctuation"},
    {"po", "otherpunctuation"},
    {"s", "symbol"},
    {"sm", "mathsymbol"},
    {"sc", "currencysymbol"},
    {"sk", "modifiersymbol"},
    {"so", "othersymbol"},
    {"z", "separator"},
    {"zs", "spaceseparator"},
    {"zl", "lineseparator"},
    {"zp", "paragraphseparator"},
    {"c", "other"},
    {"cc", "control"},
    {"cf", "format"},
    {"co", "privateuse"},
    {"cn", "unassigned"},
    {"nd", "digit"},
};

/// Appends the code points that are in none of `known`, which are sorted.
template <class Ranges>
void append_rest(const Ranges& known, CodePointRanges& ranges) {
  std::uint32_t next = 0;
  for (const auto& range : known) {
    if (range.first > next) ranges.emplace_back(next, range.first - 1);
    next = range.last + 1;
  }
  if (next <= kLastCodePoint) ranges.emplace_back(next, kLastCodePoint);
}

}  // namespace

const char* unicode_version() { return kPatternVersion; }

UnicodeTable::UnicodeTable() : CodePointTable(class_bits()) {}

const CodePointTable& case_table() {
  static const CodePointTable table(case_bits());
  return table;
}

bool append_property(std::string_view name, CodePointRanges& ranges) {
  std::string plain = plain_name(name);
  for (const auto& [code, long_name] : kLongCategories)
    if (plain == long_name) plain = code;
  const std::size_t before = ranges.size();
  if (plain == "any") ranges.emplace_back(0, kLastCodePoint);
  if (plain == "ascii") ranges.emplace_back(0, 127);
  if (plain == "whitespace" || plain == "space")
    for (const Range& range : kSpaceRanges) ranges.emplace_back(range.first, range.last);
  const bool cased = plain == "lc" || plain == "casedletter";
  for (const CategoryRange& range : kCategoryRanges) {
    const std::string category = plain_name(category_of(range));
    if (plain == category || plain == category.substr(0, 1) || plain == "assigned" ||
        (cased && (category == "lu" || category == "ll" || category == "lt")))
      ranges.emplace_back(range.first, range.last);
  }
  if (plain == "cn" || plain == "c") append_rest(kCategoryRanges, ranges);
  for (std::size_t i = 0; i < std::size(kScripts); ++i) {
    if (plain != plain_name(kScripts[i].name) && plain != plain_name(kScripts[i].code)) continue;
    for (const ScriptRange& range : kScriptRanges)
      if (range.script == i) ranges.emplace_back(range.first, range.last);
  }
  if (plain == "unknown" || plain == "zzzz") append_rest(kScriptRanges, ranges);
  return ranges.size() > before;
}

void append_word(CodePointRanges& ranges) {
  for (const CategoryRange& range : kCategoryRanges)
    if (is_word_category(category_of(range))) ranges.emplace_back(range.first, range.last);
  for (const Range& range : kOtherAlphabetic) ranges.emplace_back(range.first, range.last);
}

bool normalize_nfc(std::string_view text, std::string& out) {
  const UnicodeTable& table = UnicodeTable::get();
  const auto* const begin = reinterpret_cast<const unsigned char*>(text.data());
  const auto* const end = begin + text.size();
  // A character without kNfcMark neither changes nor combines with the text before it. So the text consists of
  // stretches that each start with one, and a stretch of one such character is unchanged.
  const unsigned char* stretch = begin;
  const unsigned char* copied = begin;
  std::vector<std::uint32_t> chars;
  bool changed = false;
  const unsigned char* p = begin;
  while (p != end) {
    const unsigned char* const here = p;
    if (!(table[next_code_point(p)] & kNfcMark)) {
      stretch = here;
      continue;
    }
    while (p != end) {
      const unsigned char* next = p;
      if (!(table[next_code_point(next)] & kNfcMark)) break;
      p = next;
    }
    chars.clear();
    for (const unsigned char* q = stretch; q != p;) NfcData::get().decompose(next_code_point(q), chars);
    order_and_compose(NfcData::get(), chars);
    std::string composed;
    for (const std::uint32_t c : chars) append_utf8(composed, c);
    if (composed != std::string_view(reinterpret_cast<const char*>(stretch), static_cast<std::size_t>(p - stretch))) {
      if (!changed) out.clear();
      changed = true;
      out.append(copied, stretch);
      out += composed;
      copied = p;
    }
    stretch = p;
  }
  if (changed) out.append(copied, end);
  return changed;
}

}  // namespace ssa
