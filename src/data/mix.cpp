#include "ssa/data/mix.h"

#include <algorithm>
#include <cmath>

#include "ssa/base/error.h"

namespace ssa {
namespace {

using Wide = __int128;

}  // namespace

Mix::Mix(std::span<const double> weights) {
  double sum = 0;
  for (const double weight : weights) sum += weight;
  for (const double weight : weights) {
    SSA_CHECK(weight >= kLeastShare * sum && weight > 0 && std::isfinite(sum), "mix: weight ", weight, " of ", sum,
              ", expected at least 2^-60 of it");
    shares_.push_back(std::llround(weight / sum / kLeastShare));
    total_ += shares_.back();
  }
  SSA_CHECK(!shares_.empty(), "mix: no weights");
}

double Mix::share(std::size_t source) const {
  return static_cast<double>(shares_[source]) / static_cast<double>(total_);
}

std::size_t Mix::next(std::span<const std::int64_t> given) const {
  SSA_CHECK(given.size() == shares_.size(), "mix: ", given.size(), " counts, expected ", shares_.size());
  if (shares_.size() == 1) return 0;
  Wide rows = 1;
  for (const std::int64_t count : given) rows += count;
  // Rows are counted in units of 1 / total_.
  const auto sources = static_cast<std::int64_t>(shares_.size());
  const std::int64_t least = (total_ + 2 * sources - 3) / (2 * sources - 2);
  std::size_t best = shares_.size();
  Wide best_left = 0;  // of source `best`: what is left until it is a row behind; its share closes that first
  for (std::size_t i = 0; i < shares_.size(); ++i) {
    const Wide behind = shares_[i] * rows - static_cast<Wide>(given[i]) * total_;
    if (behind < least) continue;
    const Wide left = total_ - least - behind;
    if (best == shares_.size() || left * shares_[best] < best_left * shares_[i]) {
      best = i;
      best_left = left;
    }
  }
  SSA_CHECK(best < shares_.size(), "mix: no source is behind its share");
  return best;
}

}  // namespace ssa
