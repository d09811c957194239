// Progress of a long evaluation: rank 0 prints it on stderr.
#pragma once

#include <cstdint>
#include <string>

#include "ssa/base/progress.h"
#include "ssa/comm/comm.h"

namespace ssa::eval {

/// "data/eval, full: batch 12 of 55, 29,300 tokens/s, 0:04 left", without the speed when `tokens` is 0, and without the
/// time left when `done` of `total` is 0. `tokens` and `done` came in `seconds`.
std::string progress_text(const std::string& what, std::int64_t batch, std::int64_t batches, std::int64_t tokens,
                          std::int64_t done, std::int64_t total, double seconds);
/// "data/eval, full: 110,108 tokens in 3.8 s, 29,300 tokens/s"
std::string speed_text(const std::string& what, std::int64_t tokens, double seconds);

class Progress {
 public:
  /// `what` names the work of `batches` batches; prints nothing when it is empty. `tokens` is the model's input in all
  /// of them, over all ranks, or 0 if it is not known: the time left is then estimated from the batches.
  Progress(const Comm& comm, std::string what, std::int64_t batches, std::int64_t tokens = 0);
  /// Call before each batch; `batch` batches with `tokens` tokens are complete, over all ranks.
  void at(std::int64_t batch, std::int64_t tokens = 0);
  /// Prints the speed of all of it. Call when the results are there.
  void done();

 private:
  std::string what_;
  std::int64_t batches_, tokens_;
  bool quiet_;
  ProgressLine line_;
};

}  // namespace ssa::eval
