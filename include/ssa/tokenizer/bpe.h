// Byte-pair encoding of one pre-token: starting from its bytes or characters, the adjacent pair of lowest rank is
// merged, the leftmost first, until no pair has a rank (Sennrich et al. 2016, as implemented by Hugging Face tokenizers
// and tiktoken). Own code: both of those are Rust libraries, which this build does not need otherwise.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace ssa {

/// Token ids that are appended. Unlike a vector it grows without writing zeros first.
class IdBuffer {
 public:
  std::size_t size() const { return size_; }
  std::int32_t* data() { return ids_.get(); }
  const std::int32_t* data() const { return ids_.get(); }
  std::int32_t operator[](std::size_t i) const { return ids_[i]; }
  void clear() { size_ = 0; }
  /// Keeps the first `size`.
  void truncate(std::size_t size) { size_ = size; }
  void push_back(std::int32_t id) {
    reserve_more(1);
    ids_[size_++] = id;
  }
  /// Makes room for `count` more and returns where they go. After writing them call advance().
  std::int32_t* reserve_more(std::size_t count) {
    if (capacity_ - size_ < count) grow(count);
    return ids_.get() + size_;
  }
  void advance(std::size_t count) { size_ += count; }
  std::vector<std::int32_t> to_vector() const { return {data(), data() + size_}; }

 private:
  void grow(std::size_t count);

  std::unique_ptr<std::int32_t[]> ids_;
  std::size_t size_ = 0, capacity_ = 0;
};

struct BpeMerge {
  std::int32_t left, right, result;  // token ids
  std::uint32_t rank;                // the lowest is merged first; of equal ranks the leftmost
};

class Bpe {
 public:
  /// Working memory of encode(), one per thread.
  struct Scratch {
    struct Symbol {
      std::int32_t id;
      std::uint32_t previous, next;
    };
    std::vector<Symbol> symbols;
    std::vector<std::uint64_t> run, heap;  // rank << 32 | index of the left symbol
  };

  struct Vocabulary {
    std::array<std::int32_t, 256> byte_ids = {};  // the token of each single byte; -1 = none
    // Not empty: a piece starts as its characters, which have these tokens; one without starts as its bytes.
    std::unordered_map<std::uint32_t, std::int32_t> characters = {};
    std::vector<BpeMerge> merges = {};  // the last one for a pair counts
    std::int32_t unknown = -1;          // the token of bytes without one; -1 = they are omitted
    bool fuse_unknown = false;          // one unknown for a run of such bytes
    /// Pieces that are encoded as one token without merging.
    std::unordered_map<std::string, std::int32_t> whole = {};
  };

  explicit Bpe(Vocabulary vocabulary);

  bool has_merges() const { return !vocabulary_.merges.empty(); }

  /// Appends the ids of `piece`, which must be valid UTF-8. Worst case: time O(n log n), memory about 40 bytes per byte
  /// of the piece.
  void encode(std::string_view piece, IdBuffer& out, Scratch& scratch) const;

 private:
  static constexpr std::uint32_t kNoRank = UINT32_MAX;
  struct Entry {
    std::uint64_t pair = UINT64_MAX;
    std::uint32_t rank = kNoRank;
    std::int32_t result = -1;
  };

  /// A hash of two symbols: its high bits are well mixed.
  static std::uint64_t hash_of(std::uint64_t pair) { return pair * 0x9e3779b97f4a7c15ull; }
  static std::uint64_t pair_of(std::int32_t left, std::int32_t right) {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
  }
  static std::uint64_t filter_bits(std::uint64_t hash) {
    return std::uint64_t{1} << (hash >> 20 & 63) | std::uint64_t{1} << (hash >> 26 & 63);
  }
  /// The merge of two symbols; its rank is kNoRank if there is none.
  const Entry& find(std::int32_t left, std::int32_t right) const {
    const std::uint64_t pair = pair_of(left, right), hash = hash_of(pair), bits = filter_bits(hash);
    if ((filter_[hash >> filter_shift_] & bits) != bits) return none_;
    std::size_t slot = hash >> table_shift_;
    while (table_[slot].pair != pair && table_[slot].rank != kNoRank) slot = (slot + 1) & (table_.size() - 1);
    return table_[slot].pair == pair ? table_[slot] : none_;
  }

  /// A character that may be one symbol from the start, between some neighbors.
  struct PremergedCharacter {
    std::int32_t id = -1;  // -1: it starts as its bytes
    std::uint32_t neighbors = 0;
  };
  /// Which may be the last byte of the character before and the first byte of the one after it: bit b stands for the
  /// byte above 127 whose low six bits are b.
  struct PremergedNeighbors {
    std::uint64_t before = 0, after = 0;
    bool before_ascii = true, after_ascii = true;
  };
  static constexpr std::uint32_t kTableCharacters = 1 << 16;  // of character_ids_ and premerged_

  void fill_table();
  void find_premerged_characters();
  template <class Step>
  std::int32_t merge_character(std::uint32_t c, Step&& step) const;
  void drop_redundant_whole_tokens();

  std::size_t to_symbols(std::string_view piece, std::int32_t* ids) const;
  std::size_t characters_to_symbols(std::string_view piece, std::int32_t* ids) const;
  std::size_t premerged_to_symbols(std::string_view piece, std::int32_t* ids) const;
  void merge(std::string_view piece, IdBuffer& out, Scratch& scratch) const;
  void merge_short(std::int32_t* ids, std::size_t count, IdBuffer& out) const;
  void merge_long(std::size_t count, IdBuffer& out, Scratch& scratch) const;

  Vocabulary vocabulary_;
  std::size_t longest_whole_ = 0;
  std::vector<std::int32_t> character_ids_;    // of code points below 65536, where vocabulary_ has characters
  std::vector<PremergedCharacter> premerged_;  // the same for a byte-level BPE, where this is known
  std::vector<PremergedNeighbors> premerged_neighbors_;
  std::vector<Entry> table_;  // open addressing, at most half full
  // Two bits per merge. Most pairs have no merge, which this tells without a look into the table: the table of a large
  // vocabulary does not fit the second cache of a processor.
  std::vector<std::uint64_t> filter_;
  int table_shift_ = 0, filter_shift_ = 0;
  Entry none_;
};

}  // namespace ssa
