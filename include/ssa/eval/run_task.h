// A task's metrics under one setting, computed as lm-evaluation-harness computes them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ssa/eval/report.h"
#include "ssa/eval/scorer.h"
#include "ssa/eval/task.h"

namespace ssa::eval {

struct TaskOptions {
  std::int64_t rows = 8;  ///< per batch; ScoreOptions::rows
  std::int64_t max_length;
  std::string_view max_length_name = "--max-length";  ///< what errors call it
  std::int64_t stride = 0;                            ///< of rolling windows; 0 = max_length
  std::int64_t num_fewshot = 0;
  std::vector<std::int64_t> seeds = {1234};  ///< of the few-shot draws; the metrics are means over the seeds
  std::optional<std::int64_t> limit = {};    ///< only the first so many documents
  bool samples = false;                      ///< keep each document's requests and scores, for the first seed
  bool quiet = false;                        ///< no progress lines
  std::function<bool()> stop = {};           ///< ScoreOptions::stop
};

/// Metrics by the task's kind, any but generation (generate_until.h). multiple_choice: acc, acc_norm. loglikelihood:
/// acc, perplexity. rolling: word_perplexity, byte_perplexity, bits_per_byte. No metrics if options.stop ended the
/// work. Rank 0 warns of prompts that lose their beginning to options.max_length.
TaskResult run_task(ForwardPass& pass, Comm& comm, TextEncoder& encoder, const Task& task, const TaskOptions& options);

/// Throws the Error that run_task() would for documents that it cannot evaluate: too long for options.max_length, or
/// without a token to score. For the first seed.
void check_task(TextEncoder& encoder, const Task& task, const TaskOptions& options);

/// A rolling task over the documents of these files and directories (text_files.h).
Task text_task(const std::vector<std::string>& files);

/// The model's choice: the one with the highest log-likelihood (best), and the one with the highest log-likelihood per
/// code point (best_norm).
struct Choice {
  std::size_t best, best_norm;
};
Choice choose(const std::vector<double>& log_likelihoods, const std::vector<std::string>& choices);

}  // namespace ssa::eval
