#include "ssa/eval/position_loss.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>

namespace ssa::eval {
namespace {

std::size_t bucket_of(std::int64_t tokens_before) {
  return static_cast<std::size_t>(std::bit_width(static_cast<std::uint64_t>(tokens_before)) - 1);
}

/// "32-63", or "1".
std::string range_text(std::size_t bucket) {
  const std::int64_t from = std::int64_t{1} << bucket;
  return bucket == 0 ? "1" : fmt::format("{}-{}", from, 2 * from - 1);
}

RowBatch load_rows(const RowLoader& loader, std::int64_t first, std::int64_t last) {
  RowBatch batch;
  for (std::int64_t row = first; row < last; ++row) {
    const auto tokens = static_cast<std::size_t>(loader.max_length());
    std::vector<std::int32_t> ids(tokens), targets(tokens), positions(tokens);
    loader.load(0, row, ids, targets, positions);
    batch.ids.push_back(std::move(ids));
    batch.targets.push_back(std::move(targets));
    batch.positions.push_back(std::move(positions));
  }
  return batch;
}

/// Adds a batch to sums[2 k] (losses) and sums[2 k + 1] (tokens). A target at position p is the token at p + 1, which
/// has p + 1 tokens before it.
void add_batch(const RowBatch& batch, const std::vector<std::vector<float>>& losses, std::vector<double>& sums) {
  for (std::size_t row = 0; row < batch.ids.size(); ++row)
    for (std::size_t t = 0; t < batch.ids[row].size(); ++t) {
      if (batch.targets[row][t] == kIgnoredLabel) continue;
      const std::size_t bucket = bucket_of(batch.positions[row][t] + 1);
      sums[2 * bucket] += static_cast<double>(losses[row][t]);
      sums[2 * bucket + 1] += 1;
    }
}

}  // namespace

EvalSums PositionLoss::total() const {
  EvalSums sums;
  for (const Bucket& bucket : buckets) {
    sums.ce += bucket.loss;
    sums.labels += bucket.tokens;
  }
  return sums;
}

PositionLoss position_loss(ForwardPass& pass, Comm& comm, const DatasetRows& data, std::int64_t rows) {
  const RowLoader& loader = data.loader();
  const std::int64_t per_batch = std::min(rows, loader.rows()), batches = (loader.rows() + per_batch - 1) / per_batch;
  Progress progress = dataset_progress(pass, comm, data, per_batch);
  std::vector<double> sums(2 * (bucket_of(loader.max_length()) + 1), 0.0);
  for (std::int64_t b = comm.rank(); b < batches; b += comm.size()) {
    progress.at(b, b * per_batch * loader.max_length());
    const RowBatch batch = load_rows(loader, b * per_batch, std::min(loader.rows(), (b + 1) * per_batch));
    add_batch(batch, pass.losses(batch), sums);
  }
  all_reduce(comm, sums, ReduceOp::sum);
  progress.done();
  while (!sums.empty() && sums.back() == 0) sums.resize(sums.size() - 2);
  PositionLoss losses;
  for (std::size_t i = 0; i < sums.size(); i += 2)
    losses.buckets.push_back({sums[i], static_cast<std::int64_t>(sums[i + 1])});
  return losses;
}

nlohmann::json to_json(const PositionLoss& losses) {
  nlohmann::json list = nlohmann::json::array();
  for (std::size_t k = 0; k < losses.buckets.size(); ++k) {
    const PositionLoss::Bucket& bucket = losses.buckets[k];
    const std::int64_t from = std::int64_t{1} << k;
    nlohmann::json loss;
    if (bucket.tokens > 0) loss = bucket.loss / static_cast<double>(bucket.tokens);
    list.push_back({{"from", from}, {"to", 2 * from - 1}, {"tokens", bucket.tokens}, {"loss", loss}});
  }
  return list;
}

std::string table(const PositionLoss& losses) {
  std::string text = fmt::format("{:>17}  {:>12}  {:>8}\n", "tokens before", "tokens", "loss");
  for (std::size_t k = 0; k < losses.buckets.size(); ++k) {
    const auto& [loss, tokens] = losses.buckets[k];
    if (tokens > 0)
      text += fmt::format("{:>17}  {:>12}  {:>8.4f}\n", range_text(k), tokens, loss / static_cast<double>(tokens));
  }
  return text;
}

}  // namespace ssa::eval
