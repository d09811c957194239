// Requests for the log-likelihood of a continuation given a context, built from texts as lm-evaluation-harness builds
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
  TokenIds continuation;  ///< the scored tokens, at least one
};

/// White space at the end of the context moves to the continuation. Both are encoded as one text, which is split after
/// as many tokens as the context alone has. An empty context becomes the prefix token.
Request make_request(TextEncoder& encoder, std::string_view context, std::string_view continuation);

/// Windows that score each of `tokens` once. The first window scores max_length tokens after the prefix token. Each
/// later window scores the next `stride` tokens (the last one the rest), with as many tokens before them as the model's
/// max_length allows. stride = max_length is the harness's rolling log-likelihood, whose windows overlap by one token.
/// A smaller stride gives every later token at least max_length - stride tokens of context, at max_length / stride
/// times the cost.
std::vector<Request> rolling_requests(std::span<const std::int32_t> tokens, std::int32_t prefix_token,
                                      std::int64_t max_length, std::int64_t stride);

/// The model's input for a request: context and continuation without the last token, cut on the left to max_length
/// tokens. Error, which calls the limit `limit_name`, when the continuation alone is longer.
TokenIds model_input(const Request& request, std::int64_t max_length, std::string_view limit_name = "--max-length");

}  // namespace ssa::eval
