// Greedy answers to many prompts, in batches spread over the ranks, and the metrics of the tasks that ask for them.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ssa/comm/comm.h"
#include "ssa/eval/forward_pass.h"
#include "ssa/eval/run_task.h"

namespace ssa::eval {

/// What is cut from a prompt that is too long: its beginning, as the harness does for Hugging Face models, or its
/// middle, as LongBench's own program and the harness's other backends can.
enum class Truncation { left, middle };

/// `ids` cut to at most `most` tokens; of an odd number, middle keeps one token more of the end.
TokenIds truncated(TokenIds ids, std::int64_t most, Truncation truncation);

struct UntilOptions {
  std::int64_t rows = 8;           ///< prompts per batch
  std::int64_t max_length;         ///< of prompt and answer in tokens; longer prompts are cut
  std::int64_t max_new_tokens;     ///< below max_length
  std::vector<std::string> until;  ///< an answer ends before the first of each of these texts
  Truncation truncation = Truncation::left;
  std::string what = {};  ///< names the work in progress lines (progress.h)
};

/// The part of a generated text before any of `until`, none of them empty.
std::string_view cut_at(std::string_view text, std::span<const std::string> until);

struct Answers {
  std::vector<std::string> texts;  ///< one per prompt, in valid UTF-8, without the texts of special tokens
  std::int64_t cut_prompts = 0;    ///< prompts that were longer than max_length - max_new_tokens
};

/// The answers, in the prompts' order, the same on every rank. Batches are formed by length, longest first; batch b
/// runs on rank b mod size, and no result depends on the number of ranks. UsageError when max_length leaves no room for
/// a prompt.
Answers generate_until(Stream& stream, Comm& comm, const LoadedModel& loaded, const Setting& setting,
                       TextEncoder& encoder, std::span<const std::string> prompts, const UntilOptions& options);

/// The metrics of a task of TaskKind::generation; see generation_task.h. options.stride, num_fewshot and seeds are
/// without effect. Warns on rank 0 of prompts that were cut.
TaskResult run_generation_task(Stream& stream, Comm& comm, const LoadedModel& loaded, const Setting& setting,
                               TextEncoder& encoder, const Task& task, const TaskOptions& options,
                               Truncation truncation);

}  // namespace ssa::eval
