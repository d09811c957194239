// Progress of a long task on stderr.
#pragma once

#include <chrono>
#include <string>

namespace ssa {

/// "26:03:04"; below an hour "3:04". Fractions of a second are cut off.
std::string clock_text(double seconds);

/// One line that replaces itself at most every second on a terminal; a new line every ten seconds elsewhere.
class ProgressLine {
 public:
  explicit ProgressLine(bool quiet);
  ~ProgressLine() { clear(); }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  /// Whether it is time for another line; never if quiet.
  bool due() const;
  void show(const std::string& line);
  /// Removes the line from a terminal, before other output.
  void clear();
  double seconds() const;  ///< since construction

 private:
  using Clock = std::chrono::steady_clock;

  bool quiet_, terminal_, shown_ = false;
  Clock::time_point start_ = Clock::now(), last_ = start_;
};

}  // namespace ssa
