#include "ssa/tokenizer/bpe.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <utility>

#include "ssa/base/error.h"
#include "ssa/tokenizer/utf8.h"

namespace ssa {
namespace {

// Up to this number of symbols, scanning for the lowest rank after each merge is faster than keeping the pairs sorted.
constexpr std::size_t kShort = 240;
constexpr std::uint32_t kIndexes = 256;  // of symbols of such a piece
constexpr std::size_t kKeptSymbols = 1 << 16;
constexpr std::uint32_t kEnd = UINT32_MAX;
constexpr std::uint32_t kMostRank = UINT32_MAX / kIndexes - 1;  // a rank and the index of a symbol fit 32 bits

}  // namespace

void IdBuffer::grow(std::size_t count) {
  const std::size_t capacity = std::max(size_ + count, capacity_ + capacity_ / 2 + 1024);
  auto ids = std::make_unique_for_overwrite<std::int32_t[]>(capacity);
  if (size_ > 0) std::memcpy(ids.get(), ids_.get(), size_ * sizeof(std::int32_t));
  ids_ = std::move(ids);
  capacity_ = capacity;
}

Bpe::Bpe(Vocabulary vocabulary) : vocabulary_(std::move(vocabulary)) {
  if (!vocabulary_.characters.empty()) character_ids_.assign(kTableCharacters, -1);
  for (const auto& [c, id] : vocabulary_.characters)
    if (c < character_ids_.size()) character_ids_[c] = id;
  fill_table();
  if (has_merges() && character_ids_.empty()) find_premerged_characters();
  if (has_merges()) drop_redundant_whole_tokens();
  for (const auto& [text, id] : vocabulary_.whole) longest_whole_ = std::max(longest_whole_, text.size());
}

void Bpe::fill_table() {
  constexpr std::size_t kSlotsPerWord = 16;  // of the filter: 8 to 16 of its bits for a merge
  const std::size_t slots = std::bit_ceil(std::max<std::size_t>(kSlotsPerWord * 2, vocabulary_.merges.size() * 2));
  table_.resize(slots);
  filter_.resize(slots / kSlotsPerWord);
  table_shift_ = 64 - std::countr_zero(table_.size());
  filter_shift_ = 64 - std::countr_zero(filter_.size());
  for (const BpeMerge& merge : vocabulary_.merges) {
    SSA_CHECK(merge.rank <= kMostRank, "a merge of rank ", merge.rank, ", expected at most ", kMostRank);
    const std::uint64_t pair = pair_of(merge.left, merge.right), hash = hash_of(pair);
    filter_[hash >> filter_shift_] |= filter_bits(hash);
    std::size_t slot = hash >> table_shift_;
    while (table_[slot].rank != kNoRank && table_[slot].pair != pair) slot = (slot + 1) & (slots - 1);
    table_[slot] = {pair, merge.rank, merge.result};
  }
}

/// Most whole pieces are what merging makes of them too, and no piece of valid UTF-8 is a part of a character. Without
/// these, few pieces have to be looked up.
void Bpe::drop_redundant_whole_tokens() {
  IdBuffer ids;
  Scratch scratch;
  std::erase_if(vocabulary_.whole, [&](const auto& entry) {
    if (valid_utf8_prefix(entry.first) != entry.first.size()) return true;
    ids.clear();
    merge(entry.first, ids, scratch);
    return ids.size() == 1 && ids[0] == entry.second;
  });
}

std::size_t Bpe::characters_to_symbols(std::string_view piece, std::int32_t* ids) const {
  std::size_t count = 0;
  const auto* p = reinterpret_cast<const unsigned char*>(piece.data());
  const auto* const end = p + piece.size();
  while (p != end) {
    const unsigned char* const start = p;
    const std::uint32_t c = next_code_point(p);
    std::int32_t id = -1;
    if (c < character_ids_.size()) {
      id = character_ids_[c];
    } else if (const auto it = vocabulary_.characters.find(c); it != vocabulary_.characters.end()) {
      id = it->second;
    }
    if (id >= 0)
      ids[count++] = id;
    else
      for (const unsigned char* byte = start; byte != p; ++byte) ids[count++] = vocabulary_.byte_ids[*byte];
  }
  return count;
}

std::size_t Bpe::premerged_to_symbols(std::string_view piece, std::int32_t* ids) const {
  std::size_t count = 0;
  const auto* const begin = reinterpret_cast<const unsigned char*>(piece.data());
  const auto* const end = begin + piece.size();
  const auto* p = begin;
  const auto allowed = [&](const PremergedNeighbors& neighbors, const unsigned char* start, const unsigned char* stop) {
    if (start != begin && !(start[-1] < 0x80 ? neighbors.before_ascii : neighbors.before >> (start[-1] & 63) & 1))
      return false;
    return stop == end || (*stop < 0x80 ? neighbors.after_ascii : neighbors.after >> (*stop & 63) & 1);
  };
  while (p != end) {
    if (*p < 0x80) {
      ids[count++] = vocabulary_.byte_ids[*p++];
      continue;
    }
    const unsigned char* const start = p;
    const std::uint32_t c = next_code_point(p);
    const PremergedCharacter premerged = c < kTableCharacters ? premerged_[c] : PremergedCharacter();
    if (premerged.id >= 0 && allowed(premerged_neighbors_[premerged.neighbors], start, p))
      ids[count++] = premerged.id;
    else
      for (const unsigned char* byte = start; byte != p; ++byte) ids[count++] = vocabulary_.byte_ids[*byte];
  }
  return count;
}

std::size_t Bpe::to_symbols(std::string_view piece, std::int32_t* ids) const {
  if (!premerged_.empty()) return premerged_to_symbols(piece, ids);
  if (!character_ids_.empty()) return characters_to_symbols(piece, ids);
  std::size_t count = 0;
  bool after_unknown = false;
  for (const char c : piece) {
    const std::int32_t id = vocabulary_.byte_ids[static_cast<unsigned char>(c)];
    if (id >= 0) {
      ids[count++] = id;
      after_unknown = false;
    } else if (vocabulary_.unknown >= 0) {
      if (!after_unknown || !vocabulary_.fuse_unknown) ids[count++] = vocabulary_.unknown;
      after_unknown = true;
    }
  }
  return count;
}

void Bpe::encode(std::string_view piece, IdBuffer& out, Scratch& scratch) const {
  if (piece.size() <= longest_whole_) {
    const auto it = vocabulary_.whole.find(std::string(piece));
    if (it != vocabulary_.whole.end()) return out.push_back(it->second);
  }
  if (vocabulary_.merges.empty())
    out.advance(to_symbols(piece, out.reserve_more(piece.size())));
  else
    merge(piece, out, scratch);
}

void Bpe::merge(std::string_view piece, IdBuffer& out, Scratch& scratch) const {
  SSA_CHECK(piece.size() < kEnd, "a pre-token of ", piece.size(), " bytes, expected less than 4 GiB");
  // The symbols go into the output first, which needs room for them anyway.
  std::int32_t* ids = out.reserve_more(piece.size());
  const std::size_t count = to_symbols(piece, ids);
  if (count <= kShort) return merge_short(ids, count, out);
  scratch.symbols.resize(count);
  for (std::size_t i = 0; i < count; ++i)
    scratch.symbols[i] = {ids[i], static_cast<std::uint32_t>(i == 0 ? kEnd : i - 1),
                          static_cast<std::uint32_t>(i + 1 == count ? kEnd : i + 1)};
  merge_long(count, out, scratch);
  if (count > kKeptSymbols) scratch = {};  // do not keep the memory of a giant piece
}

/// Merges the `count` symbols at `ids`, which is the end of `out`, and appends what remains of them.
void Bpe::merge_short(std::int32_t* ids, std::size_t count, IdBuffer& out) const {
  // Of the merge of symbol i and the one after it: rank * kIndexes + i, so that the lowest is the leftmost of the
  // lowest rank; UINT32_MAX where there is none.
  std::uint32_t keys[kShort];
  std::int32_t results[kShort];
  std::uint8_t next[kShort], previous[kShort];
  const auto look_up = [&](std::size_t left, std::size_t right) {
    const Entry& entry = find(ids[left], ids[right]);
    keys[left] = entry.rank == kNoRank ? kNoRank : entry.rank * kIndexes + static_cast<std::uint32_t>(left);
    results[left] = entry.result;
  };
  for (std::size_t i = 0; i < count; ++i) {
    next[i] = static_cast<std::uint8_t>(i + 1);
    previous[i] = static_cast<std::uint8_t>(i - 1);
    if (i + 1 < count) look_up(i, i + 1);
  }
  // keys[count - 1] and after it: the last symbol has no merge, and the loop below reads whole vectors.
  constexpr std::size_t kStep = 8;
  const std::size_t scanned = (count + kStep - 1) / kStep * kStep;
  for (std::size_t i = count == 0 ? 0 : count - 1; i < scanned; ++i) keys[i] = kNoRank;
  std::size_t left_over = count;
  while (left_over > 1) {
    std::uint32_t lowest[kStep];
    std::memcpy(lowest, keys, sizeof lowest);
    for (std::size_t i = kStep; i < scanned; i += kStep)
      for (std::size_t j = 0; j < kStep; ++j) lowest[j] = std::min(lowest[j], keys[i + j]);
    for (std::size_t half = kStep / 2; half > 0; half /= 2)
      for (std::size_t j = 0; j < half; ++j) lowest[j] = std::min(lowest[j], lowest[j + half]);
    const std::uint32_t key = lowest[0];
    if (key == kNoRank) break;
    const std::size_t at = key % kIndexes, gone = next[at], after = next[gone];
    ids[at] = results[at];
    next[at] = static_cast<std::uint8_t>(after);
    keys[gone] = keys[at] = kNoRank;
    if (after < count) {
      previous[after] = static_cast<std::uint8_t>(at);
      look_up(at, after);
    }
    if (at > 0) look_up(previous[at], at);
    --left_over;
  }
  std::size_t kept = 0;
  for (std::size_t i = 0; i < count; i = next[i]) ids[kept++] = ids[i];
  out.advance(kept);
}

// The initial pairs are in a sorted run, the pairs that merges create in a heap; when the run is used up, the heap
// becomes the run. Merges mostly create pairs of higher rank, in order, so repetitive texts, for which one large heap
// is slow, need almost no sorting.
void Bpe::merge_long(std::size_t count, IdBuffer& out, Scratch& scratch) const {
  auto& symbols = scratch.symbols;
  auto& run = scratch.run;
  auto& heap = scratch.heap;
  run.clear();
  heap.clear();
  const auto key = [](std::uint32_t rank, std::size_t left) { return static_cast<std::uint64_t>(rank) << 32 | left; };
  for (std::size_t i = 0; i + 1 < count; ++i) {
    const Entry& entry = find(symbols[i].id, symbols[i + 1].id);
    if (entry.rank != kNoRank) run.push_back(key(entry.rank, i));
  }
  if (!std::is_sorted(run.begin(), run.end())) std::sort(run.begin(), run.end());
  const auto add = [&](std::uint32_t left) {
    const Entry& entry = find(symbols[left].id, symbols[symbols[left].next].id);
    if (entry.rank == kNoRank) return;
    heap.push_back(key(entry.rank, left));
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  std::size_t cursor = 0;
  while (true) {
    if (cursor == run.size()) {
      if (heap.empty()) break;
      std::swap(run, heap);
      heap.clear();
      if (!std::is_sorted(run.begin(), run.end())) std::sort(run.begin(), run.end());
      cursor = 0;
    }
    std::uint64_t lowest;
    if (!heap.empty() && heap.front() < run[cursor]) {
      lowest = heap.front();
      std::pop_heap(heap.begin(), heap.end(), std::greater<>());
      heap.pop_back();
    } else {
      lowest = run[cursor++];
    }
    const auto left = static_cast<std::uint32_t>(lowest);
    Scratch::Symbol& symbol = symbols[left];
    if (symbol.id < 0 || symbol.next == kEnd) continue;  // already merged into its left neighbor, or now the last
    Scratch::Symbol& right = symbols[symbol.next];
    const Entry& entry = find(symbol.id, right.id);
    if (entry.rank != lowest >> 32) continue;  // one of the two has been merged since
    symbol.id = entry.result;
    symbol.next = right.next;
    right.id = -1;
    if (symbol.next != kEnd) {
      symbols[symbol.next].previous = left;
      add(left);
    }
    if (symbol.previous != kEnd) add(symbol.previous);
  }
  for (std::uint32_t i = 0; i != kEnd && count > 0; i = symbols[i].next) out.push_back(symbols[i].id);
}

}  // namespace ssa
