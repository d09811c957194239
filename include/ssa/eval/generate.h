// Text from a model: the decoder, and the choice of the next token.
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

/// How the next token is chosen.
struct Sampling {
  double temperature = 0;  ///< logits are divided by it; 0 = the most probable token
  double top_p = 1;        ///< above 0: nucleus sampling (Holtzman et al. 2020); 1 = from all tokens
  std::uint64_t seed = 42;
};

struct Candidate {
  std::int32_t id;
  double probability;
};

/// What a token is drawn from at a temperature above 0: the fewest most probable tokens whose probabilities add up to
/// top_p, the most probable first (of equal ones the lower id), made to add up to 1.
std::vector<Candidate> candidates(std::span<const float> logits, double temperature, double top_p);

/// The next token. Its randomness is a function of the seed, `sequence` and `position` alone. At temperature 0 the
/// largest logit, of equal ones the lower id.
std::int32_t choose_token(std::span<const float> logits, const Sampling& sampling, std::uint64_t sequence,
                          std::uint64_t position);

struct Continuation {
  std::int64_t max_new_tokens;
  std::int32_t end_token;   ///< ends a sequence, and is not part of it
  std::int32_t vocab_size;  ///< only lower ids are chosen: a model may have rows that its tokenizer does not know
  Sampling sampling = {};
};

/// Continues prompts side by side, at most as many as the decoder has rows: each until its end token, max_new_tokens or
/// a full cache. `sequences`: of each prompt, what tells its randomness apart; empty = 0, 1, ... `on_token` hears of
/// every token as it is chosen.
std::vector<TokenIds> continue_prompts(Decoder& decoder, std::span<const TokenIds> prompts, const Continuation& how,
                                       std::span<const std::uint64_t> sequences = {},
                                       const std::function<void(std::size_t prompt, std::int32_t id)>& on_token = {});

/// A decoder of the loaded model in this setting. UsageError when the device's kernels do not serve the model.
Decoder make_decoder(Stream& stream, const LoadedModel& loaded, const Setting& setting, std::int64_t rows,
                     std::int64_t capacity, std::int64_t prompt);

/// The setting to generate in: of a full-attention model the full one when `overrides` leaves the mode open ("both"),
/// of others the sparse one. UsageError when `overrides` asks for several.
Setting generation_setting(const ModelSource& source, const Overrides& overrides);

/// How ssa_eval --generate continues.
struct GenerateOptions {
  std::int64_t max_new_tokens = 128;
  Sampling sampling = {};
};

/// Prints the prompt and its continuation as it comes, then on standard error how long it took.
void generate(Stream& stream, const LoadedModel& loaded, const Setting& setting, TextEncoder& encoder,
              std::string prompt, const GenerateOptions& options);

}  // namespace ssa::eval
