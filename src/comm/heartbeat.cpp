#include "heartbeat.h"

#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <type_traits>

#include "end_process.h"

namespace ssa {
namespace {

static_assert(std::is_trivially_copyable_v<Heartbeat>);

/// Written by the main thread, read by the watchdog's.
struct Activity {
  std::atomic<Phase> phase{Phase::start};
  std::atomic<std::int64_t> step{0};
  std::atomic<std::uint64_t> calls{0};
  std::atomic<const char*> call{""};
  std::atomic<bool> in_call{false};
};
Activity activity;

template <std::size_t size>
void copy_text(char (&to)[size], const char* from) {
  std::strncpy(to, from, size - 1);
  to[size - 1] = 0;
}

std::string phase_text(Phase phase, std::int64_t step) {
  switch (phase) {
    case Phase::start: return "start";
    case Phase::step: return fmt::format("step {}", step);
    case Phase::save: return fmt::format("save at step {}", step);
    case Phase::evaluation: return fmt::format("evaluation at step {}", step);
    case Phase::end: return "end of the run";
  }
  return "an unknown phase";
}

}  // namespace

bool Heartbeat::same_state(const Heartbeat& other) const {
  return phase == other.phase && step == other.step && calls == other.calls && in_call == other.in_call;
}

std::string Heartbeat::doing() const {
  const std::string where = phase_text(phase, step);
  return calls == 0 ? where : fmt::format("{}, {} {} (call {})", where, in_call ? "in" : "after", call, calls);
}

Heartbeat current_heartbeat(std::uint64_t job, int rank, Heartbeat::Kind kind) {
  Heartbeat now;
  now.job = job, now.rank = rank, now.kind = kind;
  now.phase = activity.phase, now.step = activity.step;
  now.calls = activity.calls, now.in_call = activity.in_call;
  copy_text(now.call, activity.call);
  copy_text(now.host, host_name().c_str());
  return now;
}

std::string host_name() {
  char host[64] = "";
  ::gethostname(host, sizeof host - 1);
  return host;
}

bool note_phase(Phase phase, std::int64_t step) {
  wait_if_ending();
  activity.step = step;
  return activity.phase.exchange(phase) != phase;
}

WatchedCall::WatchedCall(const char* name) {
  wait_if_ending();
  activity.call = name;
  activity.in_call = true;
  ++activity.calls;
}

WatchedCall::~WatchedCall() {
  wait_if_ending();
  activity.in_call = false;
}

}  // namespace ssa
