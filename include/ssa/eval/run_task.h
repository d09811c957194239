// A task's scores under one setting, and what the harness makes of them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "ssa/eval/report.h"
#include "ssa/eval/scorer.h"
#include "ssa/eval/task.h"

namespace ssa::eval {

struct TaskOptions {
  std::int64_t rows = 8;
  std::int64_t max_length;
  std::int64_t stride = 0;  ///< of rolling windows; 0 = max_length
  std::int64_t num_fewshot = 0;
  std::vector<std::int64_t> seeds = {1234};  ///< of the few-shot draw; the metrics are means over them
  std::optional<std::int64_t> limit = {};    ///< only the first documents
  bool samples = false;                      ///< keep each document's requests and scores (those of the first seed)
};

/// acc and acc_norm; acc and perplexity; or word_perplexity, byte_perplexity and bits_per_byte, by the task's kind.
TaskResult run_task(ForwardPass& pass, Comm& comm, TextEncoder& encoder, const Task& task, const TaskOptions& options);

/// The texts of files, a document each, as a rolling task.
Task text_task(const std::vector<std::string>& files);

/// The choice that counts as the model's: the most likely one, and the most likely one a code point.
struct Choice {
  std::size_t best, best_norm;
};
Choice choose(const std::vector<double>& log_likelihoods, const std::vector<std::string>& choices);

}  // namespace ssa::eval
