// Watchdog: a job of several ranks ends when one of them stops, instead of waiting forever in a collective.
//
// A thread of every rank sends rank 0 a heartbeat every PhaseTimeouts::interval() seconds: the phase and step it is in,
// its last communication call and how many it has begun. Rank 0 answers each. Heartbeats are UDP datagrams: a hanging
// MPI or NCCL call does not delay them. The job ends when
//   - rank 0 has received no heartbeat from a rank for PhaseTimeouts::step, whatever its phase: the process is stopped,
//     or its machine is down;
//   - the rank that the others wait for sends heartbeats, but has made no progress (entered no phase, begun or ended no
//     call) for the time-out of its phase.
// Rank 0 then prints one line: the ranks that caused it, what each was last doing, and for how long. Every rank aborts
// its NCCL communicator and exits with code 1; no collective is waited for. If rank 0 does not answer, the other ranks
// end the same way and the first of them prints the line.
//
// A rank that is suspended and continues before its time-out loses nothing.
#pragma once

#include <cstdint>

namespace ssa {

class Comm;

/// What a run is doing. `start` lasts until the end of the first step; in `end` a rank waits for the others to finish.
enum class Phase : std::int32_t { start, step, save, evaluation, end };

/// Seconds without progress after which the job ends. The config keys distributed.*timeout_seconds.
struct PhaseTimeouts {
  double start = 600, step = 60, save = 600, evaluation = 600;
  double of(Phase phase) const;  ///< `end`: as a step
  /// Seconds between two heartbeats: 1, or less for a time-out so short that a rank which makes progress would seem to
  /// make none between two of them.
  double interval() const;
};

/// Starts the watchdog of this rank, once per process. A collective of all ranks; prints a warning on rank 0 that names
/// the ranks whose heartbeats do not arrive (UDP is blocked): they are not watched. make_comm calls it.
void start_watchdog(Comm& comm, const PhaseTimeouts& timeouts);
void stop_watchdog();

/// The run enters a phase; `step` is the step that is computed, saved or evaluated.
void enter_phase(Phase phase, std::int64_t step);

/// The scope of a communication call, for the heartbeats. `name` is a literal.
class WatchedCall {
 public:
  explicit WatchedCall(const char* name);
  ~WatchedCall();
  WatchedCall(const WatchedCall&) = delete;
  WatchedCall& operator=(const WatchedCall&) = delete;
};

}  // namespace ssa
