// Heartbeat: what a rank is doing, as it is sent to rank 0.
#pragma once

#include <cstdint>
#include <string>

#include "ssa/comm/watchdog.h"

namespace ssa {

/// One datagram. All ranks run the same binary, so its bytes in memory are sent unchanged.
struct Heartbeat {
  enum Kind : std::int32_t { alive, answer, abort };

  std::uint64_t job = 0;  ///< random number of the job; datagrams of other jobs are ignored
  Kind kind = alive;
  std::int32_t rank = 0;
  Phase phase = Phase::start;
  std::int32_t in_call = 0;  ///< 1 inside `call`, 0 after it
  std::int64_t step = 0;
  std::uint64_t calls = 0;  ///< communication calls begun
  char call[24] = {};       ///< the last one
  char host[64] = {};

  /// Whether phase, step and communication call are the same.
  bool same_state(const Heartbeat& other) const;
  /// "step 17, in all_reduce (call 1234)"
  std::string doing() const;
};

/// What this process is doing now.
Heartbeat current_heartbeat(std::uint64_t job, int rank, Heartbeat::Kind kind);

/// Sets the phase and step of later heartbeats. Returns whether the phase has changed.
bool note_phase(Phase phase, std::int64_t step);

std::string host_name();

}  // namespace ssa
