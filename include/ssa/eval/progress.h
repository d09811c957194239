// How far a long evaluation is: a line on stderr every ten seconds, from rank 0.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "ssa/comm/comm.h"

namespace ssa::eval {

class Progress {
 public:
  /// `what` of `total` batches; nothing is said when it is empty.
  Progress(const Comm& comm, std::string what, std::int64_t total);
  /// To be called before batch `done`.
  void at(std::int64_t done);

 private:
  using Clock = std::chrono::steady_clock;

  std::string what_;
  std::int64_t total_;
  bool quiet_;
  Clock::time_point begun_ = Clock::now(), said_ = begun_;
};

}  // namespace ssa::eval
