// What a trained model's attention does, by layer and head:
//   entropy        of the full attention's probabilities, nats
//   selected_mass  share of them inside the selected blocks
//   sink           share of them on a row's first tokens
//   divergence     relative distance of the sparse attention's output from the full one's, before the gates:
//                  sqrt(sum |full - sparse|^2 / sum |full|^2) over all positions
// Both attentions are computed from the same q, k and v; the setting says which goes on to the next layer (of nsa the
// sum of its branches; "sparse" is then the branch of the selected blocks).
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
  AttentionMeasures mean() const;                    ///< over the layers
  /// A line a layer.
  std::string table() const;
  /// {rows, tokens, sink_tokens, mean, layers: [{layer, entropy, ..., heads: [{entropy, ...}]}]}
  nlohmann::json json() const;
};

/// `rows` of one length, `batch` at a time, spread over the ranks.
AttentionReport measure_attention(Stream& stream, Comm& comm, const LoadedModel& loaded, const Setting& setting,
                                  const std::vector<TokenIds>& rows, std::int64_t batch, std::int64_t sink_tokens);

/// Texts end to end, cut into rows of max_length tokens (one shorter row when they do not fill one), at most `limit`.
std::vector<TokenIds> rows_of(const std::vector<TokenIds>& texts, std::int64_t max_length, std::int64_t limit);

}  // namespace ssa::eval
