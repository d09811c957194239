#include "ssa/eval/request.h"

#include <algorithm>

#include "ssa/eval/python_text.h"

namespace ssa::eval {

Request make_request(TextEncoder& encoder, std::string_view context, std::string_view continuation) {
  const std::string_view stripped = rstrip(context);
  const std::string moved = std::string(context.substr(stripped.size())).append(continuation);
  Request request;
  if (stripped.empty()) {
    request.continuation = encoder.encode_plain(moved);
    SSA_CHECK(!request.continuation.empty(), "an empty continuation, expected some text");
    request.context = {encoder.prefix_token()};
    if (request.continuation.front() == encoder.prefix_token())
      request.continuation.erase(request.continuation.begin());
  } else {
    const TokenIds whole = encoder.encode(std::string(stripped) + moved);
    request.context = encoder.encode(stripped);
    const std::size_t cut = std::min(request.context.size(), whole.size());
    request.continuation.assign(whole.begin() + static_cast<std::ptrdiff_t>(cut), whole.end());
  }
  SSA_CHECK(!request.continuation.empty(), "the continuation \"", continuation, "\" adds no token to its context");
  return request;
}

std::vector<Request> rolling_requests(std::span<const std::int32_t> tokens, std::int32_t prefix_token,
                                      std::int64_t max_length, std::int64_t stride) {
  SSA_CHECK(1 <= stride && stride <= max_length, "windows of ", max_length, " tokens with a stride of ", stride,
            ", expected 1 to ", max_length);
  std::vector<Request> requests;
  const auto count = static_cast<std::int64_t>(tokens.size());
  const auto piece = [&](std::int64_t begin, std::int64_t end) {
    return TokenIds(tokens.begin() + begin, tokens.begin() + end);
  };
  if (count == 0) return requests;
  const std::int64_t first = std::min(max_length, count);
  requests.push_back({.context = {prefix_token}, .continuation = piece(0, first)});
  for (std::int64_t done = first; done < count;) {
    const std::int64_t end = std::min(done + stride, count);
    // The last scored token is no input, so max_length inputs start one token earlier.
    requests.push_back({.context = piece(end - max_length - 1, done), .continuation = piece(done, end)});
    done = end;
  }
  return requests;
}

TokenIds model_input(const Request& request, std::int64_t max_length, std::string_view limit_name) {
  const auto context = static_cast<std::int64_t>(request.context.size());
  const auto continuation = static_cast<std::int64_t>(request.continuation.size());
  SSA_CHECK(continuation <= max_length, "a continuation of ", continuation, " tokens, expected at most ", limit_name,
            " ", max_length);
  const std::int64_t skipped = std::max<std::int64_t>(context + continuation - (max_length + 1), 0);
  TokenIds input(request.context.begin() + std::min(skipped, context), request.context.end());
  input.insert(input.end(), request.continuation.begin(), request.continuation.end() - 1);
  return input;
}

}  // namespace ssa::eval
