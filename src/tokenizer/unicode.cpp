#include "ssa/tokenizer/unicode.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "ssa/tokenizer/utf8.h"

namespace ssa {
namespace {

struct Range {
  std::uint32_t first, last;
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

UnicodeTable::UnicodeTable() {
  std::vector<std::uint8_t> flat(0x110000, 0);
  const auto mark = [&](const auto& ranges, std::uint8_t bit) {
    for (const auto& range : ranges)
      for (std::uint32_t c = range.first; c <= range.last; ++c) flat[c] |= bit;
  };
  mark(kLetterRanges, kLetter);
  mark(kNumberRanges, kNumber);
  mark(kSpaceRanges, kSpace);
  mark(kNumericRanges, kNumeric);
  mark(kWordRanges, kWord);
  mark(kCombiningRanges, kNfcMark);
  std::unordered_map<std::uint32_t, bool> composed;
  for (const auto& c : kCompositions) {
    composed[c.code_point] = true;
    flat[c.second] |= kNfcMark;
  }
  for (const auto& d : kDecompositions)
    if (!composed.count(d.code_point)) flat[d.code_point] |= kNfcMark;
  for (std::uint32_t i = 0; i < kVCount; ++i) flat[kVBase + i] |= kNfcMark;
  for (std::uint32_t i = 1; i < kTCount; ++i) flat[kTBase + i] |= kNfcMark;

  std::unordered_map<std::string, std::uint16_t> known;
  for (std::size_t block = 0; block < block_of_.size(); ++block) {
    const auto begin = flat.begin() + static_cast<std::ptrdiff_t>(block << 8);
    const std::string bytes(begin, begin + 256);
    const auto [it, inserted] = known.try_emplace(bytes, static_cast<std::uint16_t>(known.size()));
    if (inserted) blocks_.insert(blocks_.end(), bytes.begin(), bytes.end());
    block_of_[block] = it->second;
  }
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
