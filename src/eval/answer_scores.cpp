#include "ssa/eval/answer_scores.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <set>
#include <unordered_map>

#include "ssa/eval/python_text.h"
#include "ssa/tokenizer/unicode.h"
#include "ssa/tokenizer/utf8.h"

namespace ssa::eval {
namespace {

using Words = std::vector<std::string>;

std::u32string code_points_of(std::string_view text) {
  std::u32string all;
  const auto* p = reinterpret_cast<const unsigned char*>(text.data());
  for (const auto* const end = p + text.size(); p != end;) all += next_code_point(p);
  return all;
}

/// str.isalnum, without the underscore that \w has too.
bool is_alphanumeric(std::uint32_t c) { return (UnicodeTable::get()[c] & (kLetter | kNumber)) != 0; }

/// \d: general category Nd.
bool is_decimal(std::uint32_t c) {
  if (c < 0x80) return '0' <= c && c <= '9';
  static const CodePointRanges ranges = [] {
    CodePointRanges found;
    append_property("Nd", found);
    return found;
  }();
  return std::any_of(ranges.begin(), ranges.end(), [c](const auto& r) { return r.first <= c && c <= r.second; });
}

bool is_ascii_punctuation(char32_t c) {
  return (33 <= c && c <= 47) || (58 <= c && c <= 64) || (91 <= c && c <= 96) || (123 <= c && c <= 126);
}

std::vector<std::string_view> split_at(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (std::size_t begin = 0;;) {
    const std::size_t end = text.find(separator, begin);
    parts.push_back(text.substr(begin, end - begin));
    if (end == std::string_view::npos) return parts;
    begin = end + 1;
  }
}

/// The words that qa_f1 compares.
Words answer_words(std::string_view text) {
  std::string without_articles;
  std::u32string word;
  const auto end_word = [&] {
    if (word == U"a" || word == U"an" || word == U"the") word.assign(1, U' ');
    for (const char32_t c : word) append_utf8(without_articles, c);
    word.clear();
  };
  for (const char32_t c : code_points_of(lower(text))) {
    if (is_ascii_punctuation(c)) continue;
    if (is_alphanumeric(c)) {
      word += c;
      continue;
    }
    end_word();
    append_utf8(without_articles, c);
  }
  end_word();
  return split_words(without_articles);
}

/// The words of each sentence as rouge splits them: a sentence of white space alone has one empty word.
std::vector<Words> rouge_sentences(std::string_view text) {
  std::vector<Words> sentences;
  for (const std::string_view sentence : split_at(text, '.')) {
    if (sentence.empty()) continue;
    sentences.push_back(split_words(sentence));
    if (sentences.back().empty()) sentences.back().emplace_back();
  }
  return sentences;
}

std::set<std::string> unique_words(const std::vector<Words>& sentences) {
  std::set<std::string> words;
  for (const Words& sentence : sentences) words.insert(sentence.begin(), sentence.end());
  return words;
}

/// Adds the words of a longest common subsequence of x and y; of several, the one that rouge finds.
void add_common_words(const Words& x, const Words& y, std::set<std::string>& common) {
  const std::size_t width = y.size() + 1;
  std::vector<std::int32_t> table((x.size() + 1) * width, 0);  // [i, j]: the length for the first i and j words
  for (std::size_t i = 1; i <= x.size(); ++i)
    for (std::size_t j = 1; j <= y.size(); ++j)
      table[i * width + j] = x[i - 1] == y[j - 1] ? table[(i - 1) * width + j - 1] + 1
                                                  : std::max(table[(i - 1) * width + j], table[i * width + j - 1]);
  for (std::size_t i = x.size(), j = y.size(); i > 0 && j > 0;) {
    if (x[i - 1] == y[j - 1]) {
      common.insert(x[i - 1]);
      --i;
      --j;
    } else if (table[(i - 1) * width + j] > table[i * width + j - 1]) {
      --i;
    } else {
      --j;
    }
  }
}

/// The runs of decimal digits of a text.
Words numbers_in(std::string_view text) {
  Words numbers;
  bool inside = false;
  for (const char32_t c : code_points_of(text)) {
    const bool digit = is_decimal(c);
    if (digit && !inside) numbers.emplace_back();
    if (digit) append_utf8(numbers.back(), c);
    inside = digit;
  }
  return numbers;
}

/// difflib's matching of `a` against `b`.
class Matcher {
 public:
  Matcher(const std::u32string& a, const std::u32string& b) : a_(a), b_(b) {
    for (std::size_t j = 0; j < b.size(); ++j) places_[b[j]].push_back(j);
    const std::size_t most = b.size() / 100 + 1;
    if (b.size() >= 200) std::erase_if(places_, [most](const auto& entry) { return entry.second.size() > most; });
  }

  /// Code points in the matching blocks.
  std::size_t matches() const {
    struct Part {
      std::size_t a_begin, a_end, b_begin, b_end;
    };
    std::vector<Part> parts = {{0, a_.size(), 0, b_.size()}};
    std::size_t total = 0;
    while (!parts.empty()) {
      const Part part = parts.back();
      parts.pop_back();
      const Block block = longest(part.a_begin, part.a_end, part.b_begin, part.b_end);
      if (block.size == 0) continue;
      total += block.size;
      parts.push_back({part.a_begin, block.a, part.b_begin, block.b});
      parts.push_back({block.a + block.size, part.a_end, block.b + block.size, part.b_end});
    }
    return total;
  }

 private:
  struct Block {
    std::size_t a, b, size;
  };

  /// The longest block in a[a_begin, a_end) and b[b_begin, b_end); of several, the first in a, then in b.
  Block longest(std::size_t a_begin, std::size_t a_end, std::size_t b_begin, std::size_t b_end) const {
    Block best{a_begin, b_begin, 0};
    std::unordered_map<std::size_t, std::size_t> length, next;  // of the match that ends at a place in b
    for (std::size_t i = a_begin; i < a_end; ++i) {
      next.clear();
      if (const auto found = places_.find(a_[i]); found != places_.end())
        for (const std::size_t j : found->second) {
          if (j < b_begin) continue;
          if (j >= b_end) break;
          const auto before = j > 0 ? length.find(j - 1) : length.end();
          const std::size_t size = (before == length.end() ? 0 : before->second) + 1;
          next[j] = size;
          if (size > best.size) best = {i + 1 - size, j + 1 - size, size};
        }
      std::swap(length, next);
    }
    // Frequent code points may extend a match.
    while (best.a > a_begin && best.b > b_begin && a_[best.a - 1] == b_[best.b - 1]) --best.a, --best.b, ++best.size;
    while (best.a + best.size < a_end && best.b + best.size < b_end && a_[best.a + best.size] == b_[best.b + best.size])
      ++best.size;
    return best;
  }

  const std::u32string& a_;
  const std::u32string& b_;
  std::unordered_map<char32_t, std::vector<std::size_t>> places_;  ///< in b
};

/// fuzzywuzzy's fuzz.ratio, in percent.
double fuzz_ratio(std::string_view a, std::string_view b) {
  if (a == b) return 100;
  if (a.empty() || b.empty()) return 0;
  return std::nearbyint(100 * matching_ratio(a, b));  // half to even, as Python's round
}

}  // namespace

double qa_f1(std::string_view prediction, std::string_view answer) {
  const Words predicted = answer_words(prediction), expected = answer_words(answer);
  std::map<std::string, std::int64_t> left;
  for (const std::string& word : expected) ++left[word];
  double same = 0;
  for (const std::string& word : predicted)
    if (const auto found = left.find(word); found != left.end() && found->second-- > 0) ++same;
  if (same == 0) return 0;
  const double precision = same / static_cast<double>(predicted.size()),
               recall = same / static_cast<double>(expected.size());
  return (2 * precision * recall) / (precision + recall);
}

double rouge_l(std::string_view prediction, std::string_view answer) {
  const std::vector<Words> predicted = rouge_sentences(prediction), expected = rouge_sentences(answer);
  if (predicted.empty() || expected.empty()) return 0;
  std::set<std::string> common;
  for (const Words& reference : expected)
    for (const Words& sentence : predicted) add_common_words(reference, sentence, common);
  const auto found = static_cast<double>(common.size());
  const double recall = found / static_cast<double>(unique_words(expected).size()),
               precision = found / static_cast<double>(unique_words(predicted).size());
  return 2.0 * ((precision * recall) / (precision + recall + 1e-8));
}

double classification_score(std::string_view prediction, std::string_view answer,
                            std::span<const std::string> classes) {
  Words found;
  for (const std::string& name : classes)
    if (prediction.find(name) != std::string_view::npos) found.push_back(name);
  // Python's loop over a list from which it removes: the element after a removed one is skipped.
  for (std::size_t i = 0; i < found.size(); ++i) {
    const std::string name = found[i];
    if (name != answer && answer.find(name) != std::string_view::npos)
      found.erase(std::find(found.begin(), found.end(), name));
  }
  if (std::find(found.begin(), found.end(), answer) == found.end()) return 0;
  return 1.0 / static_cast<double>(found.size());
}

double count_score(std::string_view prediction, std::string_view answer) {
  const Words numbers = numbers_in(prediction);
  if (numbers.empty()) return 0;
  return static_cast<double>(std::count(numbers.begin(), numbers.end(), answer)) / static_cast<double>(numbers.size());
}

std::string paragraph_number(std::string_view answer) {
  constexpr std::string_view kWord = "Paragraph ";
  for (std::size_t at = answer.find(kWord); at != std::string_view::npos; at = answer.find(kWord, at + 1)) {
    const std::u32string rest = code_points_of(answer.substr(at + kWord.size()));
    std::string number;
    for (const char32_t c : rest) {
      if (!is_decimal(c)) break;
      append_utf8(number, c);
    }
    if (!number.empty()) return number;
  }
  return {};
}

double retrieval_score(std::string_view prediction, std::string_view answer) {
  return count_score(prediction, paragraph_number(answer));
}

double code_similarity(std::string_view prediction, std::string_view answer) {
  std::string_view code;
  for (const std::string_view line : split_at(prediction, '\n')) {
    if (strip(line).empty() || line.find_first_of("`#") != std::string_view::npos ||
        line.find("//") != std::string_view::npos)
      continue;
    code = line;
    break;
  }
  return fuzz_ratio(code, answer) / 100;
}

double matching_ratio(std::string_view a, std::string_view b) {
  const std::u32string left = code_points_of(a), right = code_points_of(b);
  const std::size_t length = left.size() + right.size();
  if (length == 0) return 1;
  return 2.0 * static_cast<double>(Matcher(left, right).matches()) / static_cast<double>(length);
}

double string_match(std::string_view prediction, std::span<const std::string> answers) {
  std::string text(strip(prediction));
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20) c = '\n';
  text = lower(strip(text));
  double found = 0;
  for (const std::string& answer : answers) found += text.find(lower(answer)) != std::string::npos;
  return found / static_cast<double>(answers.size());
}

}  // namespace ssa::eval
