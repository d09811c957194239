// Needle in a haystack: a passkey in one sentence among many that say nothing of it, and the question for it at the end
// (the passkey task of Mohtashami & Jaggi, "Landmark Attention", 2023, with sentences of our own). An answer is right
// when greedy decoding gives just the digits of the key.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "ssa/comm/comm.h"
#include "ssa/eval/generate.h"
#include "ssa/eval/text_encoder.h"

namespace ssa::eval {

struct NeedleOptions {
  std::vector<std::int64_t> lengths;  ///< of the prompt, tokens
  /// Of the key, percent: 0 = before all other sentences, 100 = before the question.
  std::vector<std::int64_t> depths = {0, 25, 50, 75, 100};
  std::int64_t samples = 10;  ///< for each length and depth
  std::uint64_t seed = 42;
  std::int64_t rows = 8;  ///< decoded at a time
};

struct Haystack {
  TokenIds prompt;  ///< just the wanted number of tokens
  std::string key;  ///< five digits
};

/// Sample `sample` for this length and depth; a function of these and the seed. The key's sentence stands between two
/// of the others, at the place nearest to the depth; the first sentence begins where the length wants it to. UsageError
/// when the length leaves no room for key and question.
Haystack make_haystack(TextEncoder& encoder, std::int64_t length, std::int64_t depth, std::uint64_t seed,
                       std::int64_t sample);

/// Whether the answer begins with the key and no digit follows it; space before it is not minded.
bool answers(const std::string& text, const std::string& key);

/// For each depth and length (rows are depths) the share of right answers, from 0 to 1.
using NeedleGrid = std::vector<std::vector<double>>;

/// What a model says behind prompts of one length, at most options.rows of them.
using Answer = std::function<std::vector<TokenIds>(std::span<const TokenIds> prompts)>;

/// Asks for every needle. The samples are spread over the ranks; each rank gets the whole grid.
NeedleGrid find_needles(Comm& comm, TextEncoder& encoder, const NeedleOptions& options, const Answer& answer);

/// A line for each depth and a column for each length, percent, and the mean below.
std::string needle_table(const NeedleOptions& options, const NeedleGrid& grid);

/// UsageError when a length leaves no room for key and question.
void check_lengths(TextEncoder& encoder, const NeedleOptions& options);

/// find_needles by greedy decoding; rank 0 prints the table. Gives {lengths, depths, samples, seed, accuracy: the
/// grid}.
nlohmann::json needle(Stream& stream, Comm& comm, const LoadedModel& loaded, const Setting& setting,
                      TextEncoder& encoder, const NeedleOptions& options);

}  // namespace ssa::eval
