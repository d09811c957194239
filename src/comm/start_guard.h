// StartGuard: a time-out for the start of MPI, which returns only when every rank of the job has called it. The
// watchdog needs MPI to find the other ranks, so it starts afterwards.
#pragma once

#include <sys/types.h>
#include <sys/un.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "ssa/base/error.h"

namespace ssa {

/// Of the processes that the launcher has started on this machine; 0 of 0 if it does not say.
struct LocalRank {
  int rank, ranks;
};

/// UsageError if a variable of the launcher is no number.
LocalRank launched_on_machine();

/// While it lives, the process ends with `exit_code` after `seconds`, or at SIGTERM or SIGINT if a rank of this machine
/// is missing. One rank per machine prints a line that names the ranks of the machine that have not started MPI or do
/// not answer; if `instead` is not empty, it prints that.
///
/// The ranks of a machine find each other by Unix sockets in the abstract namespace, named after the user, the job and
/// the local rank: the kernel removes them with the process. Messages of other users are ignored. A second process of a
/// rank, which a wrapper script may start, cannot have the rank's socket: it says so, and names no missing ranks.
class StartGuard {
 public:
  /// UsageError as launched_on_machine().
  explicit StartGuard(double seconds, std::string instead = {}, int exit_code = kExitFailed);
  ~StartGuard();
  /// The guards of the machine's other ranks print nothing from here on: this rank has printed why the job ends.
  void silence_others() const;
  StartGuard(const StartGuard&) = delete;
  StartGuard& operator=(const StartGuard&) = delete;

 private:
  using Clock = std::chrono::steady_clock;

  void run();
  /// Reads the messages of the other ranks: questions, answers, and the order to end.
  void answer();
  void answer_until(Clock::time_point time);
  void send_all(std::int32_t kind) const;
  /// The ranks of this machine that do not answer within `wait`.
  std::vector<int> missing_ranks(std::chrono::milliseconds wait);
  [[noreturn]] void end(const std::vector<int>& missing, const std::string& when);
  sockaddr_un address(const std::string& name, socklen_t& size) const;

  double seconds_;
  std::string instead_;
  int exit_code_;
  int rank_, ranks_;
  std::string job_;
  bool bound_ = false;  ///< this process has the socket of its rank
  int socket_ = -1, wake_ = -1;
  std::vector<bool> answered_;
  std::atomic<bool> stop_{false};
  bool silent_ = false;  ///< another rank has printed why the job ends
  std::thread thread_;
};

}  // namespace ssa
