#include "ssa/tokenizer/bpe.h"

#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "support/catch.h"
#include "support/sanitized.h"

using namespace ssa;
using ssa::test::kSanitized;

namespace {

using Ids = std::vector<std::int32_t>;

using Merges = std::map<std::pair<std::int32_t, std::int32_t>, BpeMerge>;

Merges merges_of(const Bpe::Vocabulary& vocabulary) {
  Merges merges;
  for (const BpeMerge& merge : vocabulary.merges) merges[{merge.left, merge.right}] = merge;
  return merges;
}

/// Merges the pair of lowest rank, the leftmost first, until there is none.
Ids merged_one_by_one(const Bpe::Vocabulary& vocabulary, const Merges& merges, const std::string& piece) {
  Ids ids;
  for (const char byte : piece) ids.push_back(vocabulary.byte_ids[static_cast<unsigned char>(byte)]);
  while (true) {
    const BpeMerge* best = nullptr;
    std::size_t at = 0;
    for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
      const auto it = merges.find({ids[i], ids[i + 1]});
      if (it == merges.end() || (best && best->rank <= it->second.rank)) continue;
      best = &it->second;
      at = i;
    }
    if (!best) return ids;
    ids[at] = best->result;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
}

class RandomTexts {
 public:
  explicit RandomTexts(unsigned seed) : random_(seed) {}
  std::size_t below(std::size_t limit) { return std::uniform_int_distribution<std::size_t>(0, limit - 1)(random_); }
  std::string text(std::size_t characters) {
    static const std::vector<std::string> kCharacters = {"a",      " ",      "\n",     "\u00e9",     "\u00df", "\u043a",
                                                         "\u0627", "\u4e2d", "\u4e0e", "\u6587",     "\u5b57", "\u0e01",
                                                         "\u0e32", "\u0e40", "\u0915", "\U0001f600", "\u3042"};
    std::string out;
    for (std::size_t i = 0; i < characters; ++i) out += kCharacters[below(kCharacters.size())];
    return out;
  }

  /// Merges of neighbors in a text, as training finds them, some with the rank of another merge, so that a token may
  /// come before its parts and tokens may end inside characters.
  Bpe::Vocabulary vocabulary(std::size_t merges, bool shuffled) {
    Bpe::Vocabulary made;
    std::map<std::string, std::int32_t> ids;
    for (std::int32_t byte = 0; byte < 256; ++byte) {
      made.byte_ids[static_cast<std::size_t>(byte)] = byte;
      ids[std::string(1, static_cast<char>(byte))] = byte;
    }
    std::vector<std::string> parts;
    for (const char byte : text(400)) parts.emplace_back(1, byte);
    std::map<std::pair<std::string, std::string>, bool> known;
    while (made.merges.size() < merges) {
      const std::size_t at = below(parts.size() - 1);
      const std::string left = parts[at], right = parts[at + 1];
      if (std::exchange(known[{left, right}], true)) continue;
      const auto [it, inserted] = ids.try_emplace(left + right, static_cast<std::int32_t>(ids.size()));
      made.merges.push_back({ids[left], ids[right], it->second, static_cast<std::uint32_t>(made.merges.size())});
      for (std::size_t i = 0; i + 1 < parts.size(); ++i)
        if (parts[i] == left && parts[i + 1] == right) {
          parts[i] += right;
          parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(i) + 1);
        }
    }
    if (shuffled)
      for (std::size_t i = 0; i < merges / 4; ++i)
        std::swap(made.merges[below(merges)].rank, made.merges[below(merges)].rank);
    return made;
  }

 private:
  std::mt19937 random_;
};

}  // namespace

TEST_CASE("BPE of characters of several bytes equals merging one pair after the other") {
  RandomTexts random(5);
  for (int vocabulary = 0; vocabulary < (kSanitized ? 15 : 60); ++vocabulary) {
    const Bpe::Vocabulary made = random.vocabulary(20 + random.below(130), vocabulary % 2 == 1);
    const Merges merges = merges_of(made);
    const Bpe bpe(made);
    Bpe::Scratch scratch;
    for (int i = 0; i < 40; ++i) {
      const std::string text = random.text(1 + random.below(i == 0 ? 400 : 30));  // also more than are scanned
      IdBuffer ids;
      bpe.encode(text, ids, scratch);
      INFO("vocabulary " << vocabulary << ", text " << text);
      REQUIRE(ids.to_vector() == merged_one_by_one(made, merges, text));
    }
  }
}

TEST_CASE("a piece that is a token is that token also if merging would not make it") {
  Bpe::Vocabulary vocabulary;
  for (std::int32_t byte = 0; byte < 256; ++byte) vocabulary.byte_ids[static_cast<std::size_t>(byte)] = byte;
  vocabulary.merges = {{'b', 'c', 256, 0}, {'a', 'b', 257, 1}, {257, 'c', 258, 2}};
  vocabulary.whole = {{"bc", 256}, {"abc", 258}};
  const Bpe bpe(vocabulary);
  Bpe::Scratch scratch;
  IdBuffer ids;
  for (const char* piece : {"bc", "abc", "abcd"}) bpe.encode(piece, ids, scratch);
  CHECK(ids.to_vector() == Ids{256, 258, 'a', 256, 'd'});
}
