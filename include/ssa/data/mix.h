// Decides which source the next row of a mix comes from.
//
// The n-th row comes from the source that would otherwise be the first to fall a row behind its share, among those that
// are at least 1 / (2k - 2) of a row behind (k sources). After any n rows, every source is then less than one row from
// share x n: at most 1 - 1 / (2k - 2) of a row (R. Tijdeman, "The chairman assignment problem", Discrete Mathematics
// 32, 1980). The arithmetic is exact, in integers: nothing adds up over the rows of a run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace ssa {

class Mix {
 public:
  /// The smallest share of a source, and the resolution of shares.
  static constexpr double kLeastShare = 0x1p-60;

  /// At least one weight; each at least kLeastShare of the sum of the weights. A share is a weight over the sum.
  explicit Mix(std::span<const double> weights);

  std::size_t size() const { return shares_.size(); }
  double share(std::size_t source) const;

  /// The source of the next row, when `given[i]` rows have come from source i. Ties go to the first one.
  std::size_t next(std::span<const std::int64_t> given) const;

 private:
  std::vector<std::int64_t> shares_;  ///< out of total_
  std::int64_t total_ = 0;
};

}  // namespace ssa
