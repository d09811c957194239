#include "ssa/data/unigram.h"

#include <cmath>
#include <map>
#include <vector>

namespace ssa {

double unigram_entropy(const Dataset& dataset) {
  std::map<std::int32_t, std::int64_t> counts;
  std::vector<std::int32_t> ids;
  for (const IndexedDataset& shard : dataset.shards())
    for (std::int64_t d = 0; d < shard.documents(); ++d) {
      ids.resize(static_cast<std::size_t>(shard.length(d)));
      shard.read(d, 0, ids);
      for (const std::int32_t id : ids) ++counts[id];
    }
  double entropy = 0;
  for (const auto& [id, count] : counts) {
    const double p = static_cast<double>(count) / static_cast<double>(dataset.tokens());
    entropy -= p * std::log(p);
  }
  return entropy;
}

}  // namespace ssa
