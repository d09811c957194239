// Log-likelihoods of many requests, computed in batches spread over the ranks.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "ssa/comm/comm.h"
#include "ssa/eval/forward_pass.h"
#include "ssa/eval/request.h"

namespace ssa::eval {

struct Score {
  double log_likelihood = 0;  ///< nats, summed over the continuation
  bool greedy = false;        ///< whether greedy decoding gives the continuation; false unless ScoreOptions::greedy
};

struct ScoreOptions {
  std::int64_t rows = 8;  ///< requests per batch; more of short ones on a GPU, see batch_tokens
  std::int64_t max_length;
  bool greedy = false;
  std::string what = {};  ///< names the work in progress lines (progress.h)
  /// A collective that every rank calls after each round of batches; the work ends when it returns true.
  std::function<bool()> stop = {};
};

/// One score per request, in the requests' order, the same on every rank and for any number of ranks. Batches are
/// formed by length, longest first; batch b runs on rank b mod size. Empty if options.stop ended the work.
std::vector<Score> score(ForwardPass& pass, Comm& comm, std::span<const Request> requests, const ScoreOptions& options);

/// The number of tokens to which batches of short requests are filled up, beyond options.rows requests. On a GPU the
/// tokens of options.rows long sequences, because it needs many tokens to be busy; on a CPU 0: batches are not filled.
std::int64_t batch_tokens(const ScoreOptions& options, DeviceKind device);

/// The batches, as indices into `requests`. A batch has options.rows requests, or more (up to 1024) while it has at
/// most `tokens` tokens, padding included.
std::vector<std::vector<std::size_t>> batches_of(std::span<const Request> requests, const ScoreOptions& options,
                                                 std::int64_t tokens);

}  // namespace ssa::eval
