#include "rank_table.h"

#include <fmt/format.h>

#include <algorithm>

namespace ssa {
namespace {

/// A rank that has missed so many heartbeats is reported as not answering.
constexpr double kMissed = 2;
constexpr std::size_t kMostNamed = 8;

const char* key_of(Phase phase) {
  switch (phase) {
    case Phase::start: return "distributed.start_timeout_seconds";
    case Phase::step:
    case Phase::end: return "distributed.timeout_seconds";
    case Phase::save: return "distributed.save_timeout_seconds";
    case Phase::evaluation: return "distributed.eval_timeout_seconds";
  }
  return "?";
}

}  // namespace

double PhaseTimeouts::of(Phase phase) const {
  switch (phase) {
    case Phase::start: return start;
    case Phase::step:
    case Phase::end: return step;
    case Phase::save: return save;
    case Phase::evaluation: return evaluation;
  }
  return step;
}

double PhaseTimeouts::interval() const {
  constexpr double kLongest = 1, kInTimeout = 4;
  return std::min(kLongest, std::min({start, step, save, evaluation}) / kInTimeout);
}

std::string silent_rank_text(const Heartbeat& last, double seconds) {
  return fmt::format("rank {} on {} has not answered for {:.0f} s (last: {})", last.rank, last.host, seconds,
                     last.doing());
}

std::string idle_rank_text(const Heartbeat& last, double seconds) {
  return fmt::format("rank {} on {} has made no progress for {:.0f} s (last: {})", last.rank, last.host, seconds,
                     last.doing());
}

std::string timeout_text(Phase phase, const PhaseTimeouts& timeouts) {
  return fmt::format("; {} is {:g}", key_of(phase), timeouts.of(phase));
}

void RankTable::note(const Heartbeat& heartbeat, Time now) {
  Rank& rank = ranks_[static_cast<std::size_t>(heartbeat.rank)];
  rank.heard = now;
  if (!rank.watched || !heartbeat.same_state(rank.last)) rank.advanced = now;
  rank.watched = true;
  rank.last = heartbeat;
}

void RankTable::leave_out(Time begin, Time end) {
  for (Rank& rank : ranks_) {
    rank.heard += end - begin;
    rank.advanced += end - begin;
  }
}

std::string RankTable::verdict(Time now) const {
  // The others wait for the ranks that have begun the fewest calls.
  std::uint64_t fewest = ~std::uint64_t{0};
  for (const Rank& rank : ranks_)
    if (rank.watched) fewest = std::min(fewest, rank.last.calls);
  std::vector<int> silent_ranks, last_ranks;
  bool lost = false, stuck = true;
  Phase phase = Phase::step;
  for (std::size_t i = 0; i < ranks_.size(); ++i) {
    const Rank& rank = ranks_[i];
    if (!rank.watched) continue;
    if (silent(rank, now) > kMissed * timeouts_.interval()) silent_ranks.push_back(static_cast<int>(i));
    lost = lost || silent(rank, now) > timeouts_.step;
    if (rank.last.calls != fewest) continue;
    last_ranks.push_back(static_cast<int>(i));
    stuck = stuck && idle(rank, now) > timeouts_.of(rank.last.phase);
    phase = rank.last.phase;
  }
  if (lost) return line(silent_ranks, Phase::step, now);
  if (stuck && !last_ranks.empty()) return line(last_ranks, phase, now);
  return {};
}

std::string RankTable::line(const std::vector<int>& causes, Phase limit, Time now) const {
  std::string text = kVerdict;
  for (std::size_t i = 0; i < std::min(causes.size(), kMostNamed); ++i) {
    const Rank& rank = ranks_[static_cast<std::size_t>(causes[i])];
    if (i > 0) text += ", ";
    text += silent(rank, now) > kMissed * timeouts_.interval() ? silent_rank_text(rank.last, silent(rank, now))
                                                               : idle_rank_text(rank.last, idle(rank, now));
  }
  if (causes.size() > kMostNamed) text += fmt::format(" and {} more", causes.size() - kMostNamed);
  return text + timeout_text(limit, timeouts_);
}

}  // namespace ssa
