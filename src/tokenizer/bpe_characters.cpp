// Which characters a byte-level BPE may start from instead of from their bytes.
//
// Merging goes by rank, so the bytes of a character become its token before anything else happens to them if, at every
// step on that way, the next merge inside the character has a lower rank than each merge of its first symbol with what
// may stand before it, and of its last symbol with what may stand after it. Then starting from the token gives the same
// ids, if also no merge of the token itself has a lower rank than the merges that make it: such a merge would happen
// earlier than it does from bytes. What stands before a character ends with the last byte of another one, and what
// stands after it begins with a first byte. Vocabularies hold tokens of one and a half characters, so the answer
// depends on these bytes.
#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "ssa/tokenizer/bpe.h"
#include "ssa/tokenizer/utf8.h"

namespace ssa {
namespace {

struct EndBytes {
  int first = -1, last = -1;
};

bool set_byte(int& byte, int value) {
  if (byte >= 0 && byte != value) return false;
  byte = value;
  return true;
}

/// The first and the last byte of each token that merges use. Nothing if a token has several.
std::optional<std::vector<EndBytes>> end_bytes(const Bpe::Vocabulary& vocabulary, std::size_t tokens) {
  std::vector<EndBytes> ends(tokens);
  const auto at = [&](std::int32_t token) -> EndBytes& { return ends[static_cast<std::size_t>(token)]; };
  bool good = true;
  for (int byte = 0; byte < 256; ++byte) {
    EndBytes& end = at(vocabulary.byte_ids[static_cast<std::size_t>(byte)]);
    good = good && set_byte(end.first, byte) && set_byte(end.last, byte);
  }
  // Again while that finds more: a token may be merged from tokens that later merges make.
  for (std::size_t unknown = vocabulary.merges.size() + 1; good && unknown > 0;) {
    std::size_t still_unknown = 0;
    for (const BpeMerge& merge : vocabulary.merges) {
      const int first = at(merge.left).first, last = at(merge.right).last;
      if (first < 0 || last < 0)
        ++still_unknown;
      else
        good = good && set_byte(at(merge.result).first, first) && set_byte(at(merge.result).last, last);
    }
    if (still_unknown == unknown) break;
    unknown = still_unknown;
  }
  if (!good) return std::nullopt;
  return ends;
}

/// The lowest rank of the merges of one symbol with a neighbor on one side, by the neighbor's byte there: the low six
/// bits of one above 127, and kAscii for all below.
struct NeighborRanks {
  static constexpr std::size_t kAscii = 64;
  std::array<std::uint32_t, 65> lowest;

  NeighborRanks() { lowest.fill(UINT32_MAX); }
  void add(int byte, std::uint32_t rank) {
    std::uint32_t& known = lowest[byte < 0x80 ? kAscii : static_cast<std::size_t>(byte & 63)];
    known = std::min(known, rank);
  }
  /// Clears the bits of the bytes with a merge of at most this rank.
  void restrict(std::uint32_t rank, std::uint64_t& mask, bool& ascii) const {
    for (std::size_t bit = 0; bit < kAscii; ++bit)
      if (lowest[bit] <= rank) mask &= ~(std::uint64_t{1} << bit);
    if (lowest[kAscii] <= rank) ascii = false;
  }
};

}  // namespace

/// Merges the bytes of a character; step(rank, first, last) is called before each merge with its rank and the symbols
/// at the ends. The token, or -1 if more than one is left.
template <class Step>
std::int32_t Bpe::merge_character(std::uint32_t c, Step&& step) const {
  std::string bytes;
  append_utf8(bytes, c);
  std::vector<std::int32_t> symbols;
  for (const char byte : bytes) symbols.push_back(vocabulary_.byte_ids[static_cast<unsigned char>(byte)]);
  while (symbols.size() > 1) {
    std::size_t at = 0;
    for (std::size_t i = 1; i + 1 < symbols.size(); ++i)
      if (find(symbols[i], symbols[i + 1]).rank < find(symbols[at], symbols[at + 1]).rank) at = i;
    const Entry& merge = find(symbols[at], symbols[at + 1]);
    if (merge.rank == kNoRank) return -1;
    step(merge.rank, symbols.front(), symbols.back());
    symbols[at] = merge.result;
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
  return symbols[0];
}

void Bpe::find_premerged_characters() {
  const auto& byte_ids = vocabulary_.byte_ids;
  std::int32_t most = *std::max_element(byte_ids.begin(), byte_ids.end());
  for (const BpeMerge& merge : vocabulary_.merges) most = std::max({most, merge.left, merge.right, merge.result});
  if (*std::min_element(byte_ids.begin(), byte_ids.end()) < 0) return;
  const auto ends = end_bytes(vocabulary_, static_cast<std::size_t>(most) + 1);
  if (!ends) return;

  std::unordered_map<std::int32_t, NeighborRanks> before, after;  // of the symbols at the ends of characters
  const auto each_character = [](auto&& use) {
    for (std::uint32_t c = 0x80; c < kTableCharacters; ++c)
      if (c < 0xd800 || c >= 0xe000) use(c);
  };
  each_character([&](std::uint32_t c) {
    merge_character(c, [&](std::uint32_t, std::int32_t first, std::int32_t last) {
      before[first];
      after[last];
    });
  });
  std::vector<std::uint32_t> lowest(ends->size(), UINT32_MAX);  // of the merges of each token with any other
  for (const BpeMerge& merge : vocabulary_.merges) {
    const auto left = static_cast<std::size_t>(merge.left), right = static_cast<std::size_t>(merge.right);
    lowest[left] = std::min(lowest[left], merge.rank);
    lowest[right] = std::min(lowest[right], merge.rank);
    if ((*ends)[left].last < 0 || (*ends)[right].first < 0) continue;  // not made from bytes
    if (const auto it = before.find(merge.right); it != before.end()) it->second.add((*ends)[left].last, merge.rank);
    // Not a byte in the middle of a character.
    const int first = (*ends)[right].first;
    if (const auto it = after.find(merge.left); it != after.end() && (first < 0x80 || first >= 0xc0))
      it->second.add(first, merge.rank);
  }

  premerged_.resize(kTableCharacters);
  std::map<std::array<std::uint64_t, 3>, std::size_t> known;
  each_character([&](std::uint32_t c) {
    PremergedNeighbors neighbors{.before = ~std::uint64_t{0}, .after = ~std::uint64_t{0}};
    std::uint32_t highest = 0;
    const std::int32_t token = merge_character(c, [&](std::uint32_t rank, std::int32_t first, std::int32_t last) {
      highest = std::max(highest, rank);
      before[first].restrict(rank, neighbors.before, neighbors.before_ascii);
      after[last].restrict(rank, neighbors.after, neighbors.after_ascii);
    });
    if (token < 0 || lowest[static_cast<std::size_t>(token)] <= highest) return;
    const std::array<std::uint64_t, 3> key{neighbors.before, neighbors.after,
                                           neighbors.before_ascii + std::uint64_t{2} * neighbors.after_ascii};
    const auto [it, inserted] = known.try_emplace(key, premerged_neighbors_.size());
    if (inserted) premerged_neighbors_.push_back(neighbors);
    premerged_[c] = {token, static_cast<std::uint32_t>(it->second)};
  });
}

}  // namespace ssa
