#include "ssa/tokenizer/splitter.h"

#include "src/tokenizer/regex.h"
#include "ssa/base/error.h"

namespace ssa {

void Splitter::add_literal(const std::string& text, SplitBehavior behavior, bool invert) {
  SSA_CHECK(!text.empty(), "tokenizer: an empty Split pattern, expected text");
  steps_.push_back({.kind = Step::literal, .invert = invert, .behavior = behavior, .text = text});
}

void Splitter::add_regex(const std::string& pattern, SplitBehavior behavior, bool invert) {
  steps_.push_back({.kind = Step::regex,
                    .invert = invert,
                    .behavior = behavior,
                    .compiled = std::make_shared<const Regex>(pattern)});
}

int Splitter::contraction(const Byte* p, const Byte* end) {
  if (end - p < 2) return 0;
  switch (p[1]) {
    case 's':
    case 't':
    case 'm':
    case 'd': return 2;
    case 'r':
    case 'v': return end - p >= 3 && p[2] == 'e' ? 3 : 0;
    case 'l': return end - p >= 3 && p[2] == 'l' ? 3 : 0;
    default: return 0;
  }
}

int Splitter::contraction_any_case(const Byte* p, const Byte* end) {
  if (end - p < 2) return 0;
  const auto lower = [](Byte c) { return static_cast<Byte>(c >= 'A' && c <= 'Z' ? c + 32 : c); };
  switch (lower(p[1])) {
    case 's':
    case 't':
    case 'm':
    case 'd': return 2;
    case 'r':
    case 'v': return end - p >= 3 && lower(p[2]) == 'e' ? 3 : 0;
    case 'l': return end - p >= 3 && lower(p[2]) == 'l' ? 3 : 0;
    case 0xc5: return end - p >= 3 && p[2] == 0xbf ? 3 : 0;  // the long s, which is an s when case is ignored
    default: return 0;
  }
}

void Splitter::split_matches(const Step& step, const Byte* p, const Byte* end,
                             const std::function<void(const Byte*, const Byte*)>& next) {
  // The parts of the text in order: matches and what is between them. An empty match is a cut.
  const Byte *piece = nullptr, *done = p;  // the piece that may still grow
  bool before = false;                     // whether the part before was a match
  const auto give = [&](const Byte* to) {
    if (piece && piece != to) next(piece, to);
    piece = nullptr;
  };
  const auto part = [&](const Byte* from, const Byte* to, bool match) {
    match = match != step.invert;
    bool joined = false;  // to the part before
    switch (step.behavior) {
      case SplitBehavior::isolated:
      case SplitBehavior::removed: break;
      case SplitBehavior::contiguous: joined = match == before; break;
      case SplitBehavior::merged_with_previous: joined = match && !before; break;
      case SplitBehavior::merged_with_next: joined = before && !match; break;
    }
    if (!joined) give(from);
    if (step.behavior == SplitBehavior::removed && match)
      piece = nullptr;
    else if (!piece)
      piece = from;
    before = match;
    done = to;
  };
  const auto use = [&](const Byte* from, const Byte* to) {
    if (from != done) part(done, from, false);
    part(from, to, true);
  };
  if (step.kind == Step::literal) {
    const std::string_view text(reinterpret_cast<const char*>(p), static_cast<std::size_t>(end - p));
    for (std::size_t at = text.find(step.text); at != text.npos; at = text.find(step.text, at + step.text.size()))
      use(p + at, p + at + step.text.size());
  } else {
    step.compiled->each_match(p, end, use);
  }
  if (done != end) part(done, end, false);
  give(end);
}

}  // namespace ssa
