#include "ssa/tokenizer/splitter.h"

#include <cstring>

#include "ssa/base/error.h"

#if SSA_WITH_PCRE2
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#endif

namespace ssa {

#if SSA_WITH_PCRE2
class Regex {
 public:
  explicit Regex(const std::string& pattern) : pattern_(pattern) {
    int error = 0;
    PCRE2_SIZE offset = 0;
    code_ = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                          PCRE2_UTF | PCRE2_UCP | PCRE2_NO_UTF_CHECK, &error, &offset, nullptr);
    if (!code_) {
      PCRE2_UCHAR message[256];
      pcre2_get_error_message(error, message, sizeof message);
      fail("tokenizer pattern ", pattern, ": PCRE2 rejects it at column ", offset + 1, ": ",
           reinterpret_cast<const char*>(message));
    }
    pcre2_jit_compile(code_, PCRE2_JIT_COMPLETE);  // on failure matching uses the interpreter
  }
  ~Regex() { pcre2_code_free(code_); }
  Regex(const Regex&) = delete;
  Regex& operator=(const Regex&) = delete;

  template <class Match>
  void each_match(const unsigned char* begin, const unsigned char* end, Match&& use) const {
    const std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> data(pcre2_match_data_create(1, nullptr),
                                                                              pcre2_match_data_free);
    const auto size = static_cast<PCRE2_SIZE>(end - begin);
    PCRE2_SIZE from = 0;
    while (from < size) {
      int result = pcre2_match(code_, begin, size, from, PCRE2_NO_UTF_CHECK, data.get(), nullptr);
      if (result == PCRE2_ERROR_JIT_STACKLIMIT)  // the interpreter keeps its state on the heap
        result = pcre2_match(code_, begin, size, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data.get(), nullptr);
      if (result == PCRE2_ERROR_NOMATCH) return;
      if (result < 0) {
        PCRE2_UCHAR message[256];
        pcre2_get_error_message(result, message, sizeof message);
        fail("tokenizer pattern ", pattern_, ": PCRE2 stopped: ", reinterpret_cast<const char*>(message));
      }
      const PCRE2_SIZE* span = pcre2_get_ovector_pointer(data.get());
      if (span[1] > span[0]) {
        use(begin + span[0], begin + span[1]);
        from = span[1];
      } else {  // an empty match is not a piece: continue at the next character
        from = span[0] + 1;
        while (from < size && (begin[from] & 0xc0) == 0x80) ++from;
      }
    }
  }

 private:
  std::string pattern_;
  pcre2_code* code_ = nullptr;
};
#endif

void Splitter::add_literal(const std::string& text, bool keep_matches, bool keep_gaps) {
  SSA_CHECK(!text.empty(), "tokenizer: an empty Split pattern, expected text");
  steps_.push_back({.kind = Step::literal, .keep_matches = keep_matches, .keep_gaps = keep_gaps, .text = text});
}

#if SSA_WITH_PCRE2
void Splitter::add_regex(const std::string& pattern, bool keep_matches, bool keep_gaps) {
  steps_.push_back({.kind = Step::regex,
                    .keep_matches = keep_matches,
                    .keep_gaps = keep_gaps,
                    .compiled = std::make_shared<const Regex>(pattern)});
}
#else
void Splitter::add_regex(const std::string& pattern, bool, bool) {
  fail("tokenizer pattern ", pattern, ": not one of the built-in ones, expected a build with PCRE2 (libpcre2-dev)");
}
#endif

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
  const Byte* done = p;
  const auto use = [&](const Byte* from, const Byte* to) {
    if (step.keep_gaps && from != done) next(done, from);
    if (step.keep_matches) next(from, to);
    done = to;
  };
  if (step.kind == Step::literal) {
    const std::string_view text(reinterpret_cast<const char*>(p), static_cast<std::size_t>(end - p));
    for (std::size_t at = text.find(step.text); at != text.npos; at = text.find(step.text, at + step.text.size()))
      use(p + at, p + at + step.text.size());
  } else {
#if SSA_WITH_PCRE2
    step.compiled->each_match(p, end, use);
#endif
  }
  if (step.keep_gaps && done != end) next(done, end);
}

}  // namespace ssa
