// RankTable: the state of every rank on rank 0, and the decision whether the job must end. Has no sockets and no
// threads.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "heartbeat.h"

namespace ssa {

class RankTable {
 public:
  using Time = std::chrono::steady_clock::time_point;

  RankTable(int ranks, const PhaseTimeouts& timeouts) : timeouts_(timeouts), ranks_(static_cast<std::size_t>(ranks)) {}

  void note(const Heartbeat& heartbeat, Time now);
  /// The time from `begin` to `end` does not count.
  void leave_out(Time begin, Time end);

  /// The line that ends the job: which ranks caused it, what each was last doing, for how long, the time-out and its
  /// config key. Empty if no time-out has passed. A rank without a first heartbeat is not watched.
  std::string verdict(Time now) const;

 private:
  struct Rank {
    Heartbeat last;
    Time heard;     ///< the last heartbeat
    Time advanced;  ///< the last one that showed progress
    bool watched = false;
  };
  double silent(const Rank& rank, Time now) const { return seconds(now - rank.heard); }
  double idle(const Rank& rank, Time now) const { return seconds(now - rank.advanced); }
  static double seconds(std::chrono::steady_clock::duration d) { return std::chrono::duration<double>(d).count(); }
  std::string line(const std::vector<int>& causes, Phase limit, Time now) const;

  PhaseTimeouts timeouts_;
  std::vector<Rank> ranks_;
};

/// "the job ends: rank 1 on gpu7 has not answered for 63 s (last: step 17, in all_reduce (call 1234)); distributed.
/// timeout_seconds is 60", in its three parts: what begins the line, a rank, the time-out that ended the job.
inline constexpr const char* kVerdict = "the job ends: ";
std::string silent_rank_text(const Heartbeat& last, double seconds);
std::string idle_rank_text(const Heartbeat& last, double seconds);
std::string timeout_text(Phase phase, const PhaseTimeouts& timeouts);

}  // namespace ssa
