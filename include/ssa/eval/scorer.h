// Log-likelihoods of many requests, spread over the ranks.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "ssa/comm/comm.h"
#include "ssa/eval/forward_pass.h"
#include "ssa/eval/request.h"

namespace ssa::eval {

struct Score {
  double log_likelihood = 0;  ///< nats, summed over the continuation
  bool greedy = false;        ///< whether each of its tokens is the model's most likely one, where that was asked for
};

struct ScoreOptions {
  std::int64_t rows = 8;  ///< computed at a time
  std::int64_t max_length;
  bool greedy = false;
  std::string what = {};  ///< names the work in lines of progress (progress.h)
};

/// A score for each request, in their order, the same on every rank. The longest come first and requests of like length
/// go together; batch b is rank b mod size's.
std::vector<Score> score(ForwardPass& pass, Comm& comm, std::span<const Request> requests, const ScoreOptions& options);

/// How the requests are cut into batches: indices into them.
std::vector<std::vector<std::size_t>> batches_of(std::span<const Request> requests, std::int64_t rows);

}  // namespace ssa::eval
