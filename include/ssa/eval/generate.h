// Text generation: choosing the next token, and continuing prompts with a decoder.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "ssa/eval/forward_pass.h"
#include "ssa/eval/setting.h"
#include "ssa/eval/text_encoder.h"
#include "ssa/model/decoder.h"

namespace ssa::eval {

struct Sampling {
  double temperature = 0;  ///< logits are divided by it; 0 = take the most probable token
  double top_p = 1;        ///< nucleus sampling (Holtzman et al. 2020), above 0; 1 = sample from all tokens
  std::uint64_t seed = 42;
};

struct Candidate {
  std::int32_t id;
  double probability;
};

/// The tokens to sample from at a temperature above 0: the smallest set of most probable tokens whose probabilities sum
/// to at least top_p, renormalized to sum to 1, in order of probability (ties: lower id first). `logits` are finite.
std::vector<Candidate> candidates(std::span<const float> logits, double temperature, double top_p);

/// The next token. The random draw depends on the seed, `sequence` and `position` (the tokens before it) only. At
/// temperature 0: the largest logit, ties to the lower id. Throws Error if a logit is not finite.
std::int32_t choose_token(std::span<const float> logits, const Sampling& sampling, std::uint64_t sequence,
                          std::uint64_t position);

struct ContinueOptions {
  std::int64_t max_new_tokens;
  std::int32_t end_token;  ///< ends a sequence; not part of the returned text
  /// Only ids below this are chosen: a model may have more embeddings than its tokenizer has tokens.
  std::int32_t vocab_size;
  Sampling sampling = {};
  /// Ends a sequence after a token: true when its text so far is complete. Empty: never.
  std::function<bool(const TokenIds& text)> stops = {};
};

/// Continues prompts in one batch, at most as many as the decoder has rows. Each stops at its end token, at
/// max_new_tokens, when options.stops says so or when its cache is full. `sequences` is the `sequence` of choose_token
/// per prompt; empty = 0, 1, ... `on_token` is called with every token as it is chosen.
std::vector<TokenIds> continue_prompts(Decoder& decoder, std::span<const TokenIds> prompts,
                                       const ContinueOptions& options, std::span<const std::uint64_t> sequences = {},
                                       const std::function<void(std::size_t prompt, std::int32_t id)>& on_token = {});

/// A decoder for the loaded model in this setting. UsageError when the device's kernels do not support the model.
Decoder make_decoder(Stream& stream, const LoadedModel& loaded, const Setting& setting, std::int64_t rows,
                     std::int64_t capacity, std::int64_t prompt);

/// The setting for generation. When `overrides` leaves the mode open ("both"): full attention for a full-attention
/// model, sparse for the others. UsageError when `overrides` has several block counts.
Setting generation_setting(const ModelSource& source, const Overrides& overrides);

/// Options of ssa_eval --generate.
struct GenerateOptions {
  std::int64_t max_new_tokens = 128;
  Sampling sampling = {};
};

/// Prints the prompt, then its continuation token by token; then the times, on standard error.
void generate(Stream& stream, const LoadedModel& loaded, const Setting& setting, TextEncoder& encoder,
              std::string prompt, const GenerateOptions& options);

}  // namespace ssa::eval
