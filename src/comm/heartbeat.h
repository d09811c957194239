// Heartbeat: what a rank is doing, as it is sent to rank 0.
#pragma once

#include <cstdint>
#include <string>

#include "ssa/comm/watchdog.h"

namespace ssa {

/// One datagram. All ranks run the same binary, so it is sent as it lies in memory.
struct Heartbeat {
  enum Kind : std::int32_t { alive, answer, abort };

  std::uint64_t job = 0;  ///< random number of the job: datagrams of others are ignored
  Kind kind = alive;
  std::int32_t rank = 0;
  Phase phase = Phase::start;
  std::int32_t in_call = 0;  ///< 1 inside `call`, 0 after it
  std::int64_t step = 0;
  std::uint64_t calls = 0;  ///< communication calls begun
  char call[24] = {};       ///< the last one
  char host[64] = {};

  /// Whether the rank has done something between the two.
  bool same_state(const Heartbeat& other) const;
  /// "step 17, in all_reduce (call 1234)"
  std::string doing() const;
};

/// What this process is doing now.
Heartbeat current_heartbeat(std::uint64_t job, int rank, Heartbeat::Kind kind);

/// What current_heartbeat tells from now on. True if the phase is another than before.
bool note_phase(Phase phase, std::int64_t step);

std::string host_name();

}  // namespace ssa
