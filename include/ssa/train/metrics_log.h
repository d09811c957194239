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
  /// later steps at its end, which will be logged again, and a last line that a kill cut short; the file is replaced
  /// atomically. Other lines that are not an object with an integer step, which the readers of the file refuse, are
  /// left out of it, and the file as it was is kept as old_metrics_name(). Lines whose step is not above the one before
  /// stay.
  MetricsLog(const std::filesystem::path& file, std::int64_t step);

  /// Appends one line. On return the operating system has it, so that it survives a kill of the process.
  void append(const nlohmann::json& line);
  void append(const nlohmann::ordered_json& line);

  std::int64_t lines() const { return lines_; }  ///< in the file
  /// One line for the log about lines in the file that no run writes: the first one with its number, what it holds and
  /// what was expected, and how many there are. Empty if there are none.
  const std::string& foreign_lines() const { return foreign_lines_; }
  void sync();  ///< waits until all lines are on the disk
  /// The last line; null if there is none.
  nlohmann::ordered_json last() const;
  /// Adds keys to the last line; the file is replaced atomically.
  void extend_last(const nlohmann::ordered_json& more);

 private:
  void append_text(std::string text);

  std::int64_t lines_ = 0;
  std::string foreign_lines_;
  std::optional<FileWriter> file_;
};

/// A name that no file has, NAME-until-TIME.EXTENSION, for a metrics file of another run or with other lines.
std::filesystem::path old_metrics_name(const std::filesystem::path& file);

/// The last complete line of the file; null if there is none.
nlohmann::ordered_json last_metrics(const std::filesystem::path& file);

/// The newest evaluation in the file: its step, and the keys that begin with eval_ or task_; null if there is none.
nlohmann::ordered_json last_evaluation(const std::filesystem::path& file);

}  // namespace ssa
