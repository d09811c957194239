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

// Up to this length, scanning for the lowest rank after each merge is faster than keeping the pairs sorted.
constexpr std::size_t kShort = 64;
constexpr std::size_t kKeptSymbols = 1 << 16;
constexpr std::uint32_t kEnd = UINT32_MAX;

}  // namespace

void IdBuffer::grow(std::size_t count) {
  const std::size_t capacity = std::max(size_ + count, capacity_ + capacity_ / 2 + 1024);
  auto ids = std::make_unique_for_overwrite<std::int32_t[]>(capacity);
  if (size_ > 0) std::memcpy(ids.get(), ids_.get(), size_ * sizeof(std::int32_t));
  ids_ = std::move(ids);
  capacity_ = capacity;
}

Bpe::Bpe(Vocabulary vocabulary) : vocabulary_(std::move(vocabulary)) {
  if (!vocabulary_.characters.empty()) character_ids_.assign(1 << 16, -1);
  for (const auto& [c, id] : vocabulary_.characters)
    if (c < character_ids_.size()) character_ids_[c] = id;
  const std::size_t slots = std::bit_ceil(std::max<std::size_t>(16, vocabulary_.merges.size() * 2));
  table_.resize(slots);
  shift_ = 64 - std::countr_zero(slots);
  for (const BpeMerge& merge : vocabulary_.merges) {
    const std::uint64_t pair = pair_of(merge.left, merge.right);
    std::size_t slot = slot_of(pair);
    while (table_[slot].rank != kNoRank && table_[slot].pair != pair) slot = (slot + 1) & (slots - 1);
    table_[slot] = {pair, merge.rank, merge.result};
  }
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

std::size_t Bpe::to_symbols(std::string_view piece, std::int32_t* ids) const {
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
  if (!vocabulary_.whole.empty()) {
    const auto it = vocabulary_.whole.find(std::string(piece));
    if (it != vocabulary_.whole.end()) return out.push_back(it->second);
  }
  if (vocabulary_.merges.empty()) {
    out.advance(to_symbols(piece, out.reserve_more(piece.size())));
  } else if (piece.size() <= kShort) {
    std::int32_t ids[kShort];
    merge_short(ids, to_symbols(piece, ids), out);
  } else {
    SSA_CHECK(piece.size() < kEnd, "a pre-token of ", piece.size(), " bytes, expected less than 4 GiB");
    // The symbols go into the output first, which needs room for them anyway.
    std::int32_t* ids = out.reserve_more(piece.size());
    const std::size_t count = to_symbols(piece, ids);
    scratch.symbols.resize(count);
    for (std::size_t i = 0; i < count; ++i)
      scratch.symbols[i] = {ids[i], static_cast<std::uint32_t>(i == 0 ? kEnd : i - 1),
                            static_cast<std::uint32_t>(i + 1 == count ? kEnd : i + 1)};
    merge_long(count, out, scratch);
    if (count > kKeptSymbols) scratch = {};  // do not keep the memory of a giant piece
  }
}

void Bpe::merge_short(std::int32_t* ids, std::size_t count, IdBuffer& out) const {
  const Entry* pairs[kShort];  // pairs[i]: the merge of ids[i] and ids[i + 1]
  for (std::size_t i = 0; i + 1 < count; ++i) pairs[i] = &find(ids[i], ids[i + 1]);
  while (count > 1) {
    std::size_t best = 0;
    for (std::size_t i = 1; i + 1 < count; ++i)
      if (pairs[i]->rank < pairs[best]->rank) best = i;
    if (pairs[best]->rank == kNoRank) break;
    ids[best] = pairs[best]->result;
    --count;
    for (std::size_t i = best + 1; i < count; ++i) ids[i] = ids[i + 1];
    for (std::size_t i = best + 1; i + 1 < count; ++i) pairs[i] = pairs[i + 1];
    if (best > 0) pairs[best - 1] = &find(ids[best - 1], ids[best]);
    if (best + 1 < count) pairs[best] = &find(ids[best], ids[best + 1]);
  }
  std::memcpy(out.reserve_more(count), ids, count * sizeof(std::int32_t));
  out.advance(count);
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
