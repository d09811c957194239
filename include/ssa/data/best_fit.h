// Best-fit decreasing: the longest piece first, into the row with the least room left that the piece fits into (Ding et
// al., "Fewer Truncations Improve Language Modeling", arXiv 2404.10830). About 30 ns per piece.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace ssa {

/// A set of integers from 0 to below a bound, with the smallest one that is at least i: one bit each, and a tree of
/// words above, each bit of which says whether the 64 bits below have a one.
class IntegerSet {
 public:
  explicit IntegerSet(std::int64_t bound);
  void insert(std::int64_t i);
  void erase(std::int64_t i);
  /// -1 if there is none.
  std::int64_t at_least(std::int64_t i) const;

 private:
  std::vector<std::vector<std::uint64_t>> levels_;  ///< the bits themselves first
};

class BestFit {
 public:
  /// Memory: 4.2 bytes per token of a row.
  explicit BestFit(std::int64_t row_length);

  /// Packs pieces of 1 to row_length tokens. Among equal pieces the first one comes first; among rows with equal room,
  /// the one that was filled last. Returns the number of rows.
  std::int64_t pack(std::span<const std::int32_t> lengths);

  /// Of the last pack(): the pieces, longest first, and the row of each piece.
  std::span<const std::int32_t> order() const { return order_; }
  std::span<const std::int32_t> rows() const { return rows_; }

 private:
  void sort(std::span<const std::int32_t> lengths);

  std::int64_t row_length_;
  IntegerSet rooms_;                 ///< of the rows that are not full
  std::vector<std::int32_t> heads_;  ///< by room: the row that was filled last; -1 if there is none
  std::vector<std::int32_t> next_;   ///< by row: the one that was filled before it, of the same room
  std::vector<std::int32_t> order_, rows_, sorting_, room_;
};

}  // namespace ssa
