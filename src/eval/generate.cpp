#include "ssa/eval/generate.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <limits>
#include <numeric>

#include "ssa/base/random.h"
#include "ssa/base/seconds_since.h"
#include "ssa/tokenizer/utf8.h"
#include "ssa/train/model_state.h"

namespace ssa::eval {
namespace {

std::int32_t largest(std::span<const float> logits) {
  float top = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : top)
  for (std::size_t i = 0; i < logits.size(); ++i) top = std::max(top, logits[i]);
  return static_cast<std::int32_t>(std::find(logits.begin(), logits.end(), top) - logits.begin());
}

void check_finite(std::span<const float> logits, std::uint64_t position) {
  int count = 0;  // a search that stops at the first one takes 0.1 ms for a large vocabulary
#pragma omp simd reduction(+ : count)
  for (std::size_t i = 0; i < logits.size(); ++i)
    count += !(std::abs(logits[i]) <= std::numeric_limits<float>::max()) ? 1 : 0;
  if (count == 0) return;
  const auto bad = std::ranges::find_if(logits, [](float logit) { return !std::isfinite(logit); });
  fail("generation: the logits after ", position, " tokens are not finite: token ", bad - logits.begin(), " has ", *bad,
       "; the model's weights have such values, or its activations overflow");
}

}  // namespace

std::vector<Candidate> candidates(std::span<const float> logits, double temperature, double top_p) {
  const double top = logits[static_cast<std::size_t>(largest(logits))];
  std::vector<Candidate> all(logits.size());
  double sum = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    all[i] = {static_cast<std::int32_t>(i), std::exp((static_cast<double>(logits[i]) - top) / temperature)};
    sum += all[i].probability;
  }
  std::sort(all.begin(), all.end(), [](const Candidate& a, const Candidate& b) {
    return a.probability != b.probability ? a.probability > b.probability : a.id < b.id;
  });
  std::size_t kept = 0;
  double mass = 0;
  while (kept < all.size() && (kept == 0 || mass < top_p * sum)) mass += all[kept++].probability;
  all.resize(kept);
  for (Candidate& c : all) c.probability /= mass;
  return all;
}

std::int32_t choose_token(std::span<const float> logits, const Sampling& sampling, std::uint64_t sequence,
                          std::uint64_t position) {
  check_finite(logits, position);
  if (sampling.temperature == 0) return largest(logits);
  const std::vector<Candidate> from = candidates(logits, sampling.temperature, sampling.top_p);
  double left = random_uniform(sampling.seed, RandomPurpose::sample, sequence, position);
  for (const Candidate& c : from)
    if ((left -= c.probability) < 0) return c.id;
  return from.back().id;  // rounding: the probabilities may sum to slightly less than 1
}

std::vector<TokenIds> continue_prompts(Decoder& decoder, std::span<const TokenIds> prompts,
                                       const ContinueOptions& options, std::span<const std::uint64_t> sequences,
                                       const std::function<void(std::size_t, std::int32_t)>& on_token) {
  const auto rows = static_cast<std::size_t>(decoder.shape().rows);
  SSA_CHECK(prompts.size() <= rows, "generation: ", prompts.size(), " prompts for ", rows, " rows");
  SSA_CHECK(sequences.empty() || sequences.size() == prompts.size(), "generation: ", sequences.size(),
            " sequence numbers for ", prompts.size(), " prompts");
  const auto vocab = static_cast<std::size_t>(options.vocab_size);
  std::vector<TokenIds> texts(prompts.size());
  std::vector<std::int32_t> next(rows, -1);  // -1: the sequence has ended
  const auto choose = [&](std::size_t row, std::span<const float> logits) {
    next[row] = -1;
    const std::int32_t id =
        choose_token(logits.first(vocab), options.sampling, sequences.empty() ? row : sequences[row],
                     static_cast<std::uint64_t>(decoder.length(static_cast<std::int64_t>(row))));
    if (id == options.end_token) return;
    texts[row].push_back(id);
    if (on_token) on_token(row, id);
    if (options.stops && options.stops(texts[row])) return;
    if (static_cast<std::int64_t>(texts[row].size()) < options.max_new_tokens &&
        decoder.length(static_cast<std::int64_t>(row)) < decoder.shape().capacity)
      next[row] = id;
  };
  for (std::size_t row = 0; row < prompts.size(); ++row) {
    choose(row, decoder.prefill(static_cast<std::int64_t>(row), prompts[row]));
  }
  const auto width = static_cast<std::size_t>(decoder.config().vocab_size);
  while (std::any_of(next.begin(), next.end(), [](std::int32_t id) { return id >= 0; })) {
    const std::span<const float> logits = decoder.step(next);
    for (std::size_t row = 0; row < rows; ++row)
      if (next[row] >= 0) choose(row, logits.subspan(row * width, width));
  }
  return texts;
}

Decoder make_decoder(Stream& stream, const LoadedModel& loaded, const Setting& setting, std::int64_t rows,
                     std::int64_t capacity, std::int64_t prompt) {
  check_supported({.model = setting.model,
                   .pass = {.rows = 1, .tokens = 1, .path = setting.path, .backward = false},
                   .kind = stream.kind()});
  return {stream,
          setting.model,
          bind_params(loaded.table(), setting.model, loaded.weights()),
          {.rows = rows, .capacity = capacity, .prompt = prompt, .path = setting.path, .selection = setting.selection}};
}

Setting generation_setting(const ModelSource& source, const Overrides& overrides) {
  if (overrides.block_counts.size() > 1)
    fail_usage("--block-counts: ", overrides.block_counts.size(), " numbers, expected one to generate with");
  Overrides one = overrides;
  if (one.mode == "both")
    one.mode = branches_of(training_path(source.method()), source.config()).selected ? "sparse" : "full";
  return settings_of(source, one).front();
}

void generate(Stream& stream, const LoadedModel& loaded, const Setting& setting, TextEncoder& encoder,
              std::string prompt, const GenerateOptions& options) {
  replace_invalid_utf8(prompt);
  TokenIds ids = encoder.encode(prompt);
  if (ids.empty()) ids = {encoder.prefix_token()};
  const auto length = static_cast<std::int64_t>(ids.size());

  Decoder decoder = make_decoder(stream, loaded, setting, 1, length + options.max_new_tokens, length);
  std::fputs(prompt.c_str(), stdout);
  std::fflush(stdout);
  const auto begin = std::chrono::steady_clock::now();
  double first_token = 0;  // seconds
  const auto print = [&](std::size_t, std::int32_t id) {
    if (first_token == 0) first_token = seconds_since(begin);
    const std::string bytes = encoder.tokenizer().decode(std::span(&id, 1));
    std::fwrite(bytes.data(), 1, bytes.size(), stdout);
    std::fflush(stdout);
  };
  const ContinueOptions continue_options{.max_new_tokens = options.max_new_tokens,
                                         .end_token = static_cast<std::int32_t>(setting.model.eos_token_id),
                                         .vocab_size = encoder.tokenizer().vocab_size(),
                                         .sampling = options.sampling};
  const std::size_t made = continue_prompts(decoder, std::span(&ids, 1), continue_options, {}, print).front().size();
  const double rest = seconds_since(begin) - first_token;
  std::fputs("\n", stdout);
  std::fflush(stdout);
  const std::string rate = made > 1 ? fmt::format(" at {:.1f} tokens/s", static_cast<double>(made - 1) / rest) : "";
  fmt::print(stderr, "{} attention: prompt of {} tokens in {:.3f} s, {} new tokens{}\n", setting.name(), length,
             first_token, made, rate);
}

}  // namespace ssa::eval
