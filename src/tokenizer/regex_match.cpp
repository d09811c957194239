// The third step of a Regex: matching.
#include "src/tokenizer/regex.h"

#include <cstring>

#include "src/tokenizer/regex_parser.h"
#include "ssa/base/error.h"
#include "ssa/tokenizer/utf8.h"

namespace ssa {
namespace {

constexpr std::uint64_t kMaxSteps = 1'000'000'000;
constexpr std::size_t kMaxOpen = 1 << 24;  // alternatives of a match: 512 MiB

}  // namespace

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
  const auto keep = [&](const Entry& entry) {
    if (stack_.size() == kMaxOpen)
      fail("tokenizer pattern ", with_escapes(regex_.pattern_), ": more than ", kMaxOpen,
           " open alternatives for a match");
    stack_.push_back(entry);
  };
  stack_.clear();
  std::uint32_t pc = 0;
  std::uint64_t steps = 0;
  while (true) {
    if (++steps > kMaxSteps)
      fail("tokenizer pattern ", with_escapes(regex_.pattern_), ": more than ", kMaxSteps, " steps for a match");
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
          if (count < op.max) keep({Kind::longer, pc, at, nullptr, count});
        } else if (good) {
          const Byte* const low = at;
          if (op.max == kNoLimit)
            while (take(set, at)) {
            }
          else
            while (count < op.max && take(set, at)) ++count;
          if (op.b == kGreedy && at != low) keep({Kind::shorter, pc + 1, at, low, 0});
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
        keep({Kind::alternative, op.b, at, nullptr, 0});
        pc = op.a;
        break;
      case Code::jump: pc = op.a; break;
      case Code::loop_enter:
        keep({Kind::slot, op.a, slots_[op.a], nullptr, 0});
        slots_[op.a] = at;
        ++pc;
        break;
      case Code::loop_check: pc = slots_[op.a] == at ? op.b : pc + 1; break;
      case Code::atomic_begin:
      case Code::look_begin:
        keep({Kind::mark, kNone, at, nullptr, 0});
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
        keep({Kind::mark, op.a, at, nullptr, 0});
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
