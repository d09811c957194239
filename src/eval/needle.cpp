#include "ssa/eval/needle.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "ssa/base/random.h"

namespace ssa::eval {
namespace {

constexpr const char* kOpening = "Remember the secret number in this text.\n";
constexpr const char* kQuestion = "\nWhat is the secret number? The secret number is";
constexpr std::array kNames = {"Anna",        "The baker", "Our neighbour", "A child",    "The old sailor", "Peter",
                               "The teacher", "My sister", "The gardener",  "A tall man", "The doctor",     "Someone"};
constexpr std::array kDeeds = {"walked to the river", "opened the window",      "looked at the clouds",
                               "bought some bread",   "sat under the big tree", "told an old story",
                               "went home early",     "fed the birds",          "waited for the train",
                               "sang a song",         "read the newspaper",     "cleaned the table"};
constexpr std::array kTimes = {"in the morning",  "after the rain", "on Sunday",       "before lunch",
                               "last summer",     "in the evening", "once again",      "when the bell rang",
                               "near the church", "without a word", "by the old wall", "at the end of the day"};

/// Random number `index` of a sample, in [0, limit).
std::size_t draw(std::uint64_t seed, std::int64_t sample, std::uint64_t index, std::size_t limit) {
  // Bit 40 keeps these draws distinct from choose_token's for the same seed, whose steps are small sequence numbers.
  const std::uint64_t step = std::uint64_t{1} << 40 | static_cast<std::uint64_t>(sample);
  return random_bits(seed, RandomPurpose::sample, step, index) % limit;
}

std::string key_sentence(const std::string& key) {
  return concat(" The secret number is ", key, ". Remember ", key, ".");
}

/// Enough for an answer of one token per character: a space, the five digits and one more that would make it wrong.
constexpr std::int64_t kAnswerTokens = 1 + 5 + 1;

}  // namespace

Haystack make_haystack(TextEncoder& encoder, std::int64_t length, std::int64_t depth, std::uint64_t seed,
                       std::int64_t sample) {
  Haystack haystack;
  haystack.key = std::to_string(10000 + draw(seed, sample, 0, 90000));
  const TokenIds opening = encoder.encode(kOpening), needle = encoder.encode_plain(key_sentence(haystack.key)),
                 question = encoder.encode_plain(kQuestion);
  const auto room = length - static_cast<std::int64_t>(opening.size() + needle.size() + question.size());
  if (room < 0)
    fail_usage("--lengths ", length, ": key and question alone take ", length - room,
               " tokens, expected at least that");

  std::vector<TokenIds> sentences;
  std::int64_t hay = 0;
  for (std::uint64_t i = 1; hay < room; i += 3) {
    sentences.push_back(encoder.encode_plain(concat(" ", kNames[draw(seed, sample, i, kNames.size())], " ",
                                                    kDeeds[draw(seed, sample, i + 1, kDeeds.size())], " ",
                                                    kTimes[draw(seed, sample, i + 2, kTimes.size())], ".")));
    hay += static_cast<std::int64_t>(sentences.back().size());
  }
  // Drop the excess tokens from the start of the first sentence. It was drawn last, so it is longer than the excess.
  std::reverse(sentences.begin(), sentences.end());
  if (hay > room) sentences.front().erase(sentences.front().begin(), sentences.front().begin() + (hay - room));

  // The sentence boundary nearest to the depth.
  std::size_t before = 0;
  std::int64_t boundary = 0, best = room * depth;
  for (std::size_t i = 0; i < sentences.size(); ++i) {
    boundary += static_cast<std::int64_t>(sentences[i].size());
    const std::int64_t distance = std::abs(room * depth - 100 * boundary);
    if (distance < best) best = distance, before = i + 1;
  }
  haystack.prompt = opening;
  const auto append = [&](const TokenIds& ids) {
    haystack.prompt.insert(haystack.prompt.end(), ids.begin(), ids.end());
  };
  for (std::size_t i = 0; i <= sentences.size(); ++i) {
    if (i == before) append(needle);
    if (i < sentences.size()) append(sentences[i]);
  }
  append(question);
  return haystack;
}

bool is_right_answer(const std::string& text, const std::string& key) {
  const auto is_space = [](char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; };
  const auto begin = static_cast<std::size_t>(std::find_if_not(text.begin(), text.end(), is_space) - text.begin());
  const std::size_t end = begin + key.size();
  return text.compare(begin, key.size(), key) == 0 &&
         (end >= text.size() || !std::isdigit(static_cast<unsigned char>(text[end])));
}

NeedleGrid find_needles(Comm& comm, TextEncoder& encoder, const NeedleOptions& options, const GenerateFn& generate_fn) {
  const auto rows = static_cast<std::size_t>(options.rows), depths = options.depths.size();
  std::vector<std::int64_t> mine;  // this rank's samples of a length: depth index x samples + sample
  for (std::int64_t item = comm.rank(); item < static_cast<std::int64_t>(depths) * options.samples; item += comm.size())
    mine.push_back(item);

  NeedleGrid grid(depths, std::vector<double>(options.lengths.size(), 0.0));
  for (std::size_t l = 0; l < options.lengths.size(); ++l) {
    for (std::size_t first = 0; first < mine.size(); first += rows) {
      const std::span<const std::int64_t> items = std::span(mine).subspan(first, std::min(rows, mine.size() - first));
      std::vector<std::string> keys;
      std::vector<TokenIds> prompts;
      for (const std::int64_t item : items) {
        const std::int64_t depth = options.depths[static_cast<std::size_t>(item / options.samples)];
        Haystack haystack = make_haystack(encoder, options.lengths[l], depth, options.seed, item % options.samples);
        keys.push_back(haystack.key);
        prompts.push_back(std::move(haystack.prompt));
      }
      const std::vector<TokenIds> outputs = generate_fn(prompts);
      for (std::size_t i = 0; i < items.size(); ++i)
        grid[static_cast<std::size_t>(items[i] / options.samples)][l] +=
            is_right_answer(encoder.tokenizer().decode(outputs[i]), keys[i]);
    }
    for (std::vector<double>& line : grid)
      line[l] = all_reduce(comm, line[l], ReduceOp::sum) / static_cast<double>(options.samples);
  }
  return grid;
}

std::string needle_table(const NeedleOptions& options, const NeedleGrid& grid) {
  std::string text = fmt::format("{:<10}", "depth");
  for (const std::int64_t length : options.lengths) text += fmt::format(" {:8}", length);
  text += "\n";
  std::vector<double> means(options.lengths.size(), 0.0);
  for (std::size_t d = 0; d < grid.size(); ++d) {
    text += fmt::format("{:<10}", concat(options.depths[d], " %"));
    for (std::size_t l = 0; l < means.size(); ++l) {
      text += fmt::format(" {:8.1f}", 100 * grid[d][l]);
      means[l] += grid[d][l] / static_cast<double>(grid.size());
    }
    text += "\n";
  }
  text += fmt::format("{:<10}", "mean");
  for (const double mean : means) text += fmt::format(" {:8.1f}", 100 * mean);
  return text += "\n";
}

void check_lengths(TextEncoder& encoder, const NeedleOptions& options) {
  for (const std::int64_t length : options.lengths) make_haystack(encoder, length, 0, options.seed, 0);
}

nlohmann::json needle(Stream& stream, Comm& comm, const LoadedModel& loaded, const Setting& setting,
                      TextEncoder& encoder, const NeedleOptions& options) {
  const ContinueOptions answer_options{.max_new_tokens = kAnswerTokens,
                                       .end_token = static_cast<std::int32_t>(setting.model.eos_token_id),
                                       .vocab_size = encoder.tokenizer().vocab_size()};
  std::unique_ptr<Decoder> decoder;
  const NeedleGrid grid = find_needles(comm, encoder, options, [&](std::span<const TokenIds> prompts) {
    const auto length = static_cast<std::int64_t>(prompts[0].size());
    if (!decoder || decoder->shape().prompt != length) {
      decoder.reset();
      const std::int64_t rows =
          std::min(options.rows, static_cast<std::int64_t>(options.depths.size()) * options.samples);
      decoder.reset(new Decoder(make_decoder(stream, loaded, setting, rows, length + kAnswerTokens, length)));
    }
    return continue_prompts(*decoder, prompts, answer_options);
  });
  if (comm.rank() == 0) {
    fmt::print("needle, {}: percent of right answers in {} samples, by prompt length in tokens\n{}", setting.name(),
               options.samples, needle_table(options, grid));
    std::fflush(stdout);
  }
  return {{"lengths", options.lengths},
          {"depths", options.depths},
          {"samples", options.samples},
          {"seed", options.seed},
          {"accuracy", grid}};
}

}  // namespace ssa::eval
