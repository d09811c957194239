// metrics.jsonl: a JSON object a line, each with the key "step".
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "ssa/base/file.h"

namespace ssa {

class MetricsLog {
 public:
  /// Opens the file for appending, for a run that goes on after `step` (0: a fresh start). Lines of later steps, which
  /// will be logged again, and lines that are no object with a step (torn by a kill) are dropped first, in one atomic
  /// replacement of the file.
  MetricsLog(const std::filesystem::path& file, std::int64_t step);

  /// Appends one line; it is with the operating system on return, so that a killed run has it.
  void append(const nlohmann::json& line);
  void append(const nlohmann::ordered_json& line);

 private:
  void append_text(std::string text);

  FileWriter file_;
};

/// The last whole line of the file; null if there is none.
nlohmann::ordered_json last_metrics(const std::filesystem::path& file);

}  // namespace ssa
