// The console of a run: messages are lines; the newest training step is one line that updates itself where the console
// is a terminal, and a line like any other elsewhere. No step's line is wider than the terminal.
#pragma once

#include <spdlog/sinks/base_sink.h>

#include <mutex>
#include <string>

namespace ssa {

/// Columns of the terminal that stdout is, or 0 where lines must not be updated: files, pipes, and mpirun, which gives
/// its ranks a terminal but may write what they print to a file.
int terminal_columns();

class Console : public spdlog::sinks::base_sink<std::mutex> {
 public:
  explicit Console(int terminal_columns) : columns_(terminal_columns) {}

  /// Replaces the last step's line on a terminal, else prints a line.
  void show_step(const std::string& text);

 protected:
  void sink_it_(const spdlog::details::log_msg& message) override;
  void flush_() override;

 private:
  int columns_;
  bool step_shown_ = false;  ///< the cursor is at the end of a step's line
};

}  // namespace ssa
