// What the model is asked: how likely are these tokens after those. Made from texts as lm-evaluation-harness makes
// them.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "ssa/eval/text_encoder.h"

namespace ssa::eval {

struct Request {
  TokenIds context;       ///< at least one token
  TokenIds continuation;  ///< at least one token: what is scored
};

/// The continuation behind the context. White space at the context's end moves to the continuation; both are encoded as
/// one text and cut where the context's own encoding ends. An empty context is the prefix token.
Request make_request(TextEncoder& encoder, std::string_view context, std::string_view continuation);

/// All of `tokens`, each scored once: the first window holds max_length of them behind the prefix token; each later one
/// scores the next `stride` (the last one what is left) behind as many tokens before them as fit, max_length tokens
/// being what the model sees. stride = max_length is the harness's rolling log-likelihood, whose windows share nothing
/// but one token; a smaller one gives every token max_length - stride tokens of context or more, at max_length / stride
/// times the cost.
std::vector<Request> rolling_requests(std::span<const std::int32_t> tokens, std::int32_t prefix_token,
                                      std::int64_t max_length, std::int64_t stride);

/// What the model reads for a request: context and continuation without its last token, cut from the left to
/// max_length tokens. Error when the continuation alone is longer.
TokenIds model_input(const Request& request, std::int64_t max_length);

}  // namespace ssa::eval
