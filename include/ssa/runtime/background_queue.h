// BackgroundQueue: work in parallel to a stream on the same device, such as communication while the stream computes.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "ssa/runtime/stream.h"

namespace ssa {

/// On CUDA the work is queued on a second stream; on the CPU a thread runs it, with one OpenMP thread. Without
/// `concurrent`, all work runs on the main stream when it is queued.
class BackgroundQueue {
 public:
  /// A piece of work that was queued; 0: none.
  using Ticket = std::int64_t;

  /// `name`: of the thread, for debuggers, top -H and perf; at most 15 characters.
  BackgroundQueue(Stream& main, bool concurrent, const char* name = "communication");
  /// Waits for the work that was queued. What it throws, and an error of the device, is not thrown here; the latter is
  /// printed on stderr.
  ~BackgroundQueue();
  BackgroundQueue(const BackgroundQueue&) = delete;
  BackgroundQueue& operator=(const BackgroundQueue&) = delete;

  /// Runs `work` on the stream it is given, after all work that is on the main stream now and after the work queued
  /// before. It must use nothing that the main stream changes before wait().
  Ticket run(std::function<void(Stream&)> work);

  /// The main stream continues after this work. On the CPU it blocks, and throws what the work threw.
  void wait(Ticket ticket);

 private:
  struct Worker;
  Stream& main_;
  std::unique_ptr<Worker> worker_;  ///< absent without `concurrent`
  Ticket last_ = 0;
};

}  // namespace ssa
