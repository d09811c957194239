// Needle in a haystack: one sentence among many unrelated ones states a passkey, and the prompt ends with a question
// for it. This is the passkey task of Mohtashami & Jaggi, "Landmark Attention", 2023, with other sentences. An answer
// is right when greedy decoding gives exactly the digits of the key.
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
  std::vector<std::int64_t> lengths;  ///< of the prompts, in tokens
  /// Positions of the key in percent: 0 = before all other sentences, 100 = right before the question.
  std::vector<std::int64_t> depths = {0, 25, 50, 75, 100};
  std::int64_t samples = 10;  ///< per length and depth
  std::uint64_t seed = 42;
  std::int64_t rows = 8;  ///< prompts per batch
};

struct Haystack {
  TokenIds prompt;  ///< exactly `length` tokens
  std::string key;  ///< five digits
};

/// Sample number `sample` for this length and depth, a function of these and the seed. The key's sentence is inserted
/// between two others, as near to the depth as possible. The first sentence is cut at its start to reach the exact
/// length. UsageError when the length has no room for key and question.
Haystack make_haystack(TextEncoder& encoder, std::int64_t length, std::int64_t depth, std::uint64_t seed,
                       std::int64_t sample);

/// Whether the text starts with the key and no digit follows it; leading white space is ignored.
bool is_right_answer(const std::string& text, const std::string& key);

/// Fraction of right answers, [depth][length].
using NeedleGrid = std::vector<std::vector<double>>;

/// Generates the continuations of at most options.rows prompts of one length.
using GenerateFn = std::function<std::vector<TokenIds>(std::span<const TokenIds> prompts)>;

/// Runs all samples, spread over the ranks. Every rank gets the whole grid.
NeedleGrid find_needles(Comm& comm, TextEncoder& encoder, const NeedleOptions& options, const GenerateFn& generate_fn);

/// One line per depth and one column per length, in percent; the last line is the mean over the depths.
std::string needle_table(const NeedleOptions& options, const NeedleGrid& grid);

/// UsageError when a length has no room for key and question.
void check_lengths(TextEncoder& encoder, const NeedleOptions& options);

/// find_needles with greedy decoding; rank 0 prints the table. Returns {lengths, depths, samples, seed, accuracy},
/// where accuracy is the grid.
nlohmann::json needle(Stream& stream, Comm& comm, const LoadedModel& loaded, const Setting& setting,
                      TextEncoder& encoder, const NeedleOptions& options);

}  // namespace ssa::eval
