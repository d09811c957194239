#include "ssa/eval/python_text.h"

#include <algorithm>
#include <iterator>

#include "ssa/tokenizer/utf8.h"

namespace ssa::eval {
namespace {

// Own tables because utf8proc has no full mappings: one character to several, as "\u00df" to "Ss", 49 of them in
// CPython.
struct CaseRun {
  std::uint32_t first, last, step;
  std::int32_t add;
};
struct CaseText {
  std::uint32_t code_point;
  const char* text;
};
#include "case_data.inc"

template <std::size_t kRuns, std::size_t kTexts>
void append_mapped(std::string& out, std::uint32_t c, const CaseRun (&runs)[kRuns], const CaseText (&texts)[kTexts]) {
  for (const CaseText& text : texts)
    if (text.code_point == c) {
      out += text.text;
      return;
    }
  const CaseRun* run = std::lower_bound(std::begin(runs), std::end(runs), c,
                                        [](const CaseRun& r, auto point) { return r.last < point; });
  const bool mapped = run != std::end(runs) && run->first <= c && (c - run->first) % run->step == 0;
  append_utf8(out, mapped ? c + static_cast<std::uint32_t>(run->add) : c);
}

/// Calls visit(code point, the bytes it takes) for each.
template <class Visit>
void each_code_point(std::string_view text, Visit&& visit) {
  const auto* begin = reinterpret_cast<const unsigned char*>(text.data());
  const auto* const end = begin + text.size();
  for (const auto* p = begin; p != end;) {
    const auto* const start = p;
    const std::uint32_t c = next_code_point(p);
    visit(c, text.substr(static_cast<std::size_t>(start - begin), static_cast<std::size_t>(p - start)));
  }
}

}  // namespace

bool is_space(std::uint32_t c) {
  return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

std::string_view rstrip(std::string_view text) {
  std::size_t kept = 0, at = 0;
  each_code_point(text, [&](std::uint32_t c, std::string_view bytes) {
    at += bytes.size();
    if (!is_space(c)) kept = at;
  });
  return text.substr(0, kept);
}

std::string_view strip(std::string_view text) {
  text = rstrip(text);
  std::size_t skipped = 0;
  bool inside = false;
  each_code_point(text, [&](std::uint32_t c, std::string_view bytes) {
    inside = inside || !is_space(c);
    if (!inside) skipped += bytes.size();
  });
  return text.substr(skipped);
}

std::int64_t code_points(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; });
}

std::int64_t count_words(std::string_view text) {
  std::int64_t runs = 0;
  bool in_space = false;
  each_code_point(text, [&](std::uint32_t c, std::string_view) {
    const bool space = is_space(c);
    runs += space && !in_space;
    in_space = space;
  });
  return runs + 1;
}

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  std::size_t at = 0;
  for (std::size_t found; (found = text.find(from, at)) != std::string_view::npos; at = found + from.size()) {
    out += text.substr(at, found - at);
    out += to;
  }
  return out += text.substr(at);
}

std::vector<std::string> split_words(std::string_view text) {
  std::vector<std::string> words;
  bool in_word = false;
  each_code_point(text, [&](std::uint32_t c, std::string_view bytes) {
    const bool space = is_space(c);
    if (!space && !in_word) words.emplace_back();
    if (!space) words.back() += bytes;
    in_word = !space;
  });
  return words;
}

std::string lower(std::string_view text) {
  std::string out;
  each_code_point(text, [&](std::uint32_t c, std::string_view) { append_mapped(out, c, kLower, kLowerLonger); });
  return out;
}

std::string capitalize(std::string_view text) {
  std::string out;
  bool first = true;
  each_code_point(text, [&](std::uint32_t c, std::string_view) {
    if (first)
      append_mapped(out, c, kTitle, kTitleLonger);
    else
      append_mapped(out, c, kLower, kLowerLonger);
    first = false;
  });
  return out;
}

}  // namespace ssa::eval
