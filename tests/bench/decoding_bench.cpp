// Decoding with random weights: tokens per second of 1 to 64 sequences together, each after a prompt
// of almost 32768 tokens, under sparse and full attention.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

#include "bench/bench.h"
#include "ssa/base/error.h"
#include "ssa/model/decoder.h"
#include "ssa/model/param_table.h"

using namespace ssa;
using namespace ssa::bench;

namespace {

constexpr std::int64_t kCapacity = 32768, kPrompt = kCapacity - 256;
constexpr int kSteps = 64;

/// Seconds per token of all sequences together, after a prompt each.
double step_seconds(Bench& bench, const ModelConfig& config, const std::vector<std::int32_t>& prompt, std::int64_t rows,
                    AttentionPath path) {
  const ParamTable table(config);
  const Tensor weights = bench.random(DType::bf16, {table.size()}, config.initializer_range);
  Decoder decoder(bench.stream, config, bind_params(table, config, weights),
                  {.rows = rows, .capacity = kCapacity, .prompt = kPrompt, .path = path});
  for (std::int64_t row = 0; row < rows; ++row) decoder.prefill(row, prompt);
  const std::vector<std::int32_t> next(static_cast<std::size_t>(rows), 1);
  for (int i = 0; i < 4; ++i) decoder.step(next);
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < kSteps; ++i) decoder.step(next);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / kSteps;
}

SSA_BENCH(decoding) {
  if (!bench.asked_for("decoding")) return;
  ModelConfig config = bench.shapes.model;
  config.window_size = 0;
  config.max_position_embeddings = kCapacity;
  std::vector<std::int32_t> prompt;
  for (std::int64_t i = 0; i < kPrompt; ++i) prompt.push_back(static_cast<std::int32_t>(i * 7919 % config.vocab_size));
  std::printf(
      "\nDecoding after %lld tokens, %.2f GB of weights\n\n| attention | sequences | ms per step | tokens/s "
      "|\n|---|---|---|---|\n",
      static_cast<long long>(kPrompt), 2e-9 * static_cast<double>(ParamTable(config).size()));
  for (const AttentionPath path : {AttentionPath::selected, AttentionPath::full})
    for (const std::int64_t rows : {1, 4, 16, 64}) {
      std::printf("| %s | %9lld |", path == AttentionPath::full ? "full  " : "sparse", static_cast<long long>(rows));
      try {
        const double seconds = step_seconds(bench, config, prompt, rows, path);
        std::printf(" %11.3f | %8.0f |\n", 1e3 * seconds, static_cast<double>(rows) / seconds);
      } catch (const Error& error) {  // its memory does not fit
        std::printf(" skipped: %s | |\n", error.what());
      }
      std::fflush(stdout);
      bench.release();
    }
}

}  // namespace
