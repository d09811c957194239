// Progress of a long evaluation: rank 0 prints it on stderr.
#pragma once

#include <cstdint>
#include <string>

#include "ssa/base/progress.h"
#include "ssa/comm/comm.h"

namespace ssa::eval {

class Progress {
 public:
  /// `what` names the work of `total` batches; prints nothing when it is empty.
  Progress(const Comm& comm, std::string what, std::int64_t total);
  /// Call before each batch; `done` batches are complete.
  void at(std::int64_t done);

 private:
  std::string what_;
  std::int64_t total_;
  ProgressLine line_;
};

}  // namespace ssa::eval
