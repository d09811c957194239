// job.json: the settings of a tokenizing job, and a point from which it continues after an interruption.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "data_tools/document_reader.h"
#include "data_tools/shard_writer.h"
#include "data_tools/tokenize_job.h"
#include "ssa/tokenizer/tokenizer.h"

namespace ssa {

/// Everything that the output depends on, except --on-error, which may change when a job continues, and the number of
/// workers. `versions`: of the input files.
nlohmann::ordered_json job_settings(const TokenizeOptions& options, const Tokenizer& tokenizer,
                                    const std::vector<std::optional<FileVersion>>& versions);

/// A place in the inputs, and how far every output had come there.
struct JobState {
  InputPlace place = {};
  TokenizeReport counts = {};
  WriterState train = {};
  std::optional<WriterState> validation = {};  // of a job that splits documents off for validation
  std::uint64_t quarantine_bytes = 0;
};

/// Throws UsageError for a job with other settings, and Error for a file that is not the state of a job.
JobState read_job_state(const std::filesystem::path& path, const nlohmann::ordered_json& settings);

void write_job_state(const std::filesystem::path& path, const nlohmann::ordered_json& settings, const JobState& state);

}  // namespace ssa
