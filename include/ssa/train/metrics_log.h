// metrics.jsonl: one JSON object per line, each with the key "step".
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "ssa/base/file.h"

namespace ssa {

class MetricsLog {
 public:
  /// Opens the file for appending, for a run that continues after `step` (0: a fresh start). First drops the lines of
  /// later steps, which will be logged again, and lines that are not an object with a step, such as one that a kill cut
  /// short; the file is replaced atomically.
  MetricsLog(const std::filesystem::path& file, std::int64_t step);

  /// Appends one line. On return the operating system has it, so that it survives a kill of the process.
  void append(const nlohmann::json& line);
  void append(const nlohmann::ordered_json& line);

  std::int64_t lines() const { return lines_; }  ///< in the file
  void sync();                                   ///< waits until all lines are on the disk
  /// The last line; null if there is none.
  nlohmann::ordered_json last() const;
  /// Adds keys to the last line; the file is replaced atomically.
  void extend_last(const nlohmann::ordered_json& more);

 private:
  void append_text(std::string text);

  std::int64_t lines_ = 0;
  std::optional<FileWriter> file_;
};

/// The last complete line of the file; null if there is none.
nlohmann::ordered_json last_metrics(const std::filesystem::path& file);

/// The newest evaluation in the file: its step, and the keys that begin with eval_ or task_; null if there is none.
nlohmann::ordered_json last_evaluation(const std::filesystem::path& file);

}  // namespace ssa
