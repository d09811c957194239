// Statistics of a trained model's attention, per layer and head:
//   entropy        entropy of the full attention's probabilities, nats
//   selected_mass  fraction of the probability inside the selected blocks
//   sink           fraction of the probability on a sequence's first tokens
//   divergence     relative distance between the outputs of sparse and full attention, before the gates:
//                  sqrt(sum |full - sparse|^2 / sum |full|^2) over all positions
// Both attentions are computed from the same q, k and v; the setting decides which output the next layer gets. For nsa
// the next layer gets the sum of the branches, and "sparse" means the selected branch.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "ssa/comm/comm.h"
#include "ssa/eval/forward_pass.h"
#include "ssa/eval/request.h"

namespace ssa::eval {

struct AttentionMeasures {
  double entropy = 0, selected_mass = 0, sink = 0, divergence = 0;
};

struct AttentionReport {
  std::int64_t rows = 0, tokens = 0, sink_tokens = 0;
  std::vector<std::vector<AttentionMeasures>> heads;  ///< [layer][head]

  AttentionMeasures layer(std::size_t index) const;  ///< mean over its heads
  AttentionMeasures mean() const;                    ///< mean over the layers
  /// One line per layer, and the mean.
  std::string table() const;
  /// {rows, tokens, sink_tokens, mean, layers: [{layer, entropy, ..., heads: [{entropy, ...}]}]}
  nlohmann::json json() const;
};

/// `rows` have equal lengths; they run `batch` at a time, spread over the ranks.
AttentionReport measure_attention(Stream& stream, Comm& comm, const LoadedModel& loaded, const Setting& setting,
                                  const std::vector<TokenIds>& rows, std::int64_t batch, std::int64_t sink_tokens);

/// Concatenates texts and cuts them into at most `limit` rows of max_length tokens; a single shorter row if they do not
/// fill one.
std::vector<TokenIds> rows_of(const std::vector<TokenIds>& texts, std::int64_t max_length, std::int64_t limit);

}  // namespace ssa::eval
