// Watchdog: a job of several ranks ends when one of them stops, instead of waiting for ever in a collective.
//
// A thread of every rank sends rank 0 once a second what the rank is doing: phase, step, the communication call it is in
// and how many calls it has begun. Rank 0 answers. The messages go over TCP connections of their own, so that a hanging
// MPI or NCCL call does not hold them up. The job ends, with one line on stderr that names the ranks that are missing
// and what each was last doing, when
//   - a rank has not been heard of for the time-out of its phase (stopped, swapped out, its machine gone),
//   - a rank has been heard of but has made no progress for that time,
//   - a connection closed and the rank did not say good-bye (it died, and the launcher did not end the job).
// Every rank then ends at once with exit code 1; collectives are not waited for. A rank that cannot reach rank 0 ends
// by itself after the same time. A job that was suspended as a whole and goes on is not ended.
//
// With one rank there is no watchdog and every function here does nothing.
#pragma once

#include <cstdint>

namespace ssa {

class Comm;

/// What a run is doing; each phase has its time-out.
enum class Phase { start, step, save, evaluation };

/// Seconds without progress after which a job is ended.
struct WatchdogTimeouts {
  double start = 600, step = 60, save = 600, evaluation = 600;
};

/// Starts the watchdog of this rank, in phase `start`; every rank calls it. It runs until stop_watchdog().
void start_watchdog(Comm& comm, const WatchdogTimeouts& timeouts);
/// Tells rank 0 that this rank ends as planned.
void stop_watchdog();

/// The run enters a phase, or makes progress in it: `step` is the step that is computed, saved or evaluated.
void watchdog_phase(Phase phase, std::int64_t step);

/// Lives as long as a communication call; made by the communicators.
class WatchedCall {
 public:
  explicit WatchedCall(const char* name);
  ~WatchedCall();
  WatchedCall(const WatchedCall&) = delete;
  WatchedCall& operator=(const WatchedCall&) = delete;
};

/// Guards a call that returns once every rank of the job has come to it, before the watchdog runs: if it takes longer
/// than `seconds`, the process ends with a line that names the ranks of this machine that have not come so far. `what`
/// starts there: "MPI".
class StartGuard {
 public:
  StartGuard(double seconds, const char* what);
  ~StartGuard();
  StartGuard(const StartGuard&) = delete;
  StartGuard& operator=(const StartGuard&) = delete;

 private:
  struct State;
  State* state_ = nullptr;
};

}  // namespace ssa
