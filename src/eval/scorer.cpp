#include "ssa/eval/scorer.h"

#include <algorithm>
#include <numeric>

#include "ssa/data/row_loader.h"
#include "ssa/eval/progress.h"

namespace ssa::eval {

namespace {

constexpr std::int64_t kLongRow = 2048;       ///< tokens; of so many, a few sequences occupy a GPU
constexpr std::int64_t kMostRequests = 1024;  ///< per batch

/// Tokens of a request's input if nothing is cut.
std::int64_t uncut_length(const Request& request) {
  return static_cast<std::int64_t>(request.context.size() + request.continuation.size()) - 1;
}

}  // namespace

std::int64_t batch_tokens(const ScoreOptions& options, DeviceKind device) {
  return device == DeviceKind::cpu ? 0 : options.rows * std::min(options.max_length, kLongRow);
}

std::vector<std::vector<std::size_t>> batches_of(std::span<const Request> requests, const ScoreOptions& options,
                                                 std::int64_t tokens) {
  std::vector<std::size_t> order(requests.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](auto a, auto b) { return uncut_length(requests[a]) > uncut_length(requests[b]); });
  std::vector<std::vector<std::size_t>> batches;
  for (auto first = order.begin(); first != order.end();) {
    const std::int64_t longest = std::min(uncut_length(requests[*first]), options.max_length);
    const std::int64_t fit = std::min(tokens / longest, kMostRequests);
    const std::int64_t count = std::min<std::int64_t>(std::max(options.rows, fit), order.end() - first);
    batches.emplace_back(first, first + count);
    first += count;
  }
  return batches;
}

namespace {

/// Log-likelihood and greediness of request i go to found[2 i] and found[2 i + 1].
void score_batch(ForwardPass& pass, std::span<const Request> requests, const std::vector<std::size_t>& indices,
                 const ScoreOptions& options, std::vector<double>& found) {
  RowBatch batch;
  for (const std::size_t i : indices) {
    const TokenIds& continuation = requests[i].continuation;
    batch.ids.push_back(model_input(requests[i], options.max_length));
    TokenIds targets(batch.ids.back().size() - continuation.size(), kIgnoredLabel);
    targets.insert(targets.end(), continuation.begin(), continuation.end());
    batch.targets.push_back(std::move(targets));
  }
  const auto losses = pass.losses(batch);
  for (std::size_t row = 0; row < losses.size(); ++row) {
    const std::size_t i = indices[row];
    found[2 * i] = -std::accumulate(losses[row].begin(), losses[row].end(), 0.0);
    if (!options.greedy) continue;
    const auto last = static_cast<std::int64_t>(losses[row].size());
    const auto first = last - static_cast<std::int64_t>(requests[i].continuation.size());
    found[2 * i + 1] = pass.largest(static_cast<std::int64_t>(row), first, last) == requests[i].continuation;
  }
}

}  // namespace

std::vector<Score> score(ForwardPass& pass, Comm& comm, std::span<const Request> requests,
                         const ScoreOptions& options) {
  // Each rank fills in its own requests; the sum over the ranks then has all.
  std::vector<double> found(2 * requests.size(), 0.0);
  const auto batches = batches_of(requests, options, batch_tokens(options, pass.device()));
  std::vector<std::int64_t> tokens_before = {0};  // of each batch, and of all of them
  for (const auto& batch : batches) {
    tokens_before.push_back(tokens_before.back());
    for (const std::size_t i : batch) tokens_before.back() += std::min(uncut_length(requests[i]), options.max_length);
  }
  Progress progress(comm, options.what, static_cast<std::int64_t>(batches.size()), tokens_before.back());
  const auto ranks = static_cast<std::size_t>(comm.size()), rank = static_cast<std::size_t>(comm.rank());
  for (std::size_t round = 0; round < batches.size(); round += ranks) {
    if (round + rank < batches.size()) {  // in the last round some ranks may have nothing to do
      progress.at(static_cast<std::int64_t>(round), tokens_before[round]);
      score_batch(pass, requests, batches[round + rank], options, found);
    }
    if (options.stop && options.stop()) return {};
  }
  if (!found.empty()) all_reduce(comm, found, ReduceOp::sum);
  progress.done();
  std::vector<Score> scores(requests.size());
  for (std::size_t i = 0; i < scores.size(); ++i)
    scores[i] = {.log_likelihood = found[2 * i], .greedy = found[2 * i + 1] != 0};
  return scores;
}

}  // namespace ssa::eval
