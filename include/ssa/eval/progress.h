// Progress of a long evaluation: rank 0 prints one line on stderr every ten seconds.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "ssa/comm/comm.h"

namespace ssa::eval {

class Progress {
 public:
  /// `what` names the work of `total` batches; prints nothing when it is empty.
  Progress(const Comm& comm, std::string what, std::int64_t total);
  /// Call before each batch; `done` batches are complete.
  void at(std::int64_t done);

 private:
  using Clock = std::chrono::steady_clock;

  std::string what_;
  std::int64_t total_;
  bool quiet_;
  Clock::time_point start_ = Clock::now(), last_print_ = start_;
};

}  // namespace ssa::eval
