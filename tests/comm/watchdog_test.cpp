// The watchdog on ranks that stop in every way and place, and its verdict on what rank 0 has heard.
#include "ssa/comm/watchdog.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <string>

#include "src/comm/rank_table.h"
#include "ssa/runtime/stream.h"
#include "support/catch.h"
#include "support/run_program.h"

using namespace ssa;
using namespace ssa::test;
using Catch::Matchers::Contains;

namespace {

/// comm_ranks has the time-outs: start 4, step 3, save 5, evaluation 6 seconds.
constexpr double kMargin = 10;

struct Case {
  const char* mode;
  int ranks, rank;
  const char* phase;
  double timeout;
  std::string named;  ///< in the line, as are those of `more`
  std::string more;
};

void check_ends(const Case& c, const std::string& device = "cpu") {
  INFO(c.mode << ", rank " << c.rank << " of " << c.ranks << ", " << c.phase);
  const ProgramResult result = run_program(
      {"comm_ranks", c.mode, std::to_string(c.ranks), std::to_string(c.rank), c.phase, device}, {.ranks = c.ranks});
  INFO(result.err);
  CHECK(result.exit_code == 1);
  CHECK(result.seconds < c.timeout + kMargin);
  CHECK_THAT(result.err, Contains(c.named) && Contains(c.more));
  std::size_t lines = 0;
  for (std::size_t at = result.err.find("error: "); at != std::string::npos; at = result.err.find("error: ", at + 1))
    ++lines;
  CHECK(lines == 1);
}

/// What rank 0 knows, at made-up times.
struct Table {
  explicit Table(int ranks, const PhaseTimeouts& timeouts = {.start = 40, .step = 10, .save = 20, .evaluation = 30})
      : table(ranks, timeouts) {}

  void hear(int rank, double seconds, Phase phase, std::uint64_t calls, const char* call = "barrier") {
    Heartbeat heartbeat;
    heartbeat.rank = rank, heartbeat.phase = phase, heartbeat.step = 17, heartbeat.calls = calls;
    heartbeat.in_call = 1;
    std::strcpy(heartbeat.call, call);
    std::strcpy(heartbeat.host, "gpu7");
    table.note(heartbeat, at(seconds));
  }
  std::string verdict(double seconds) const { return table.verdict(at(seconds)); }
  static RankTable::Time at(double seconds) {
    return RankTable::Time(
        std::chrono::duration_cast<RankTable::Time::duration>(std::chrono::duration<double>(seconds)));
  }

  RankTable table;
};

}  // namespace

TEST_CASE("watchdog: a stopped rank ends the job within its time-out, in every phase, and is named") {
  for (const Case& c : {Case{"stopped-process", 2, 1, "start", 3, "rank 1 on ", "has not answered for"},
                        {"stopped-process", 2, 1, "step", 3, "rank 1 on ", "has not answered for"},
                        {"stopped-process", 4, 2, "save", 3, "rank 2 on ", "last: save at step 20, "},
                        {"stopped-process", 4, 3, "evaluation", 3, "rank 3 on ", "last: evaluation at step 20, "},
                        {"stopped-process", 2, 0, "save", 3, "rank 0 on ", "last: save at step 20, "},
                        {"stopped-process", 4, 0, "step", 3, "rank 0 on ", "distributed.timeout_seconds is 3"}})
    check_ends(c);
}

TEST_CASE("watchdog: a rank that runs but makes no progress ends the job after the time-out of its phase") {
  for (const Case& c :
       {Case{"stopped-thread", 2, 1, "step", 3, "rank 1 on ", "(last: step 20, after all_reduce (call "},
        {"stopped-thread", 2, 0, "save", 5, "rank 0 on ", "distributed.save_timeout_seconds is 5"},
        {"stopped-thread", 3, 1, "evaluation", 6, "rank 1 on ", "distributed.eval_timeout_seconds is 6"},
        {"stopped-thread", 2, 1, "start", 4, "rank 1 on ", "distributed.start_timeout_seconds is 4"},
        {"returns-early", 3, 1, "step", 3, "rank 1 on ", "last: end of the run, after all_reduce (call "}})
    check_ends(c);
}

TEST_CASE("watchdog: a rank that stops ends the job and is named, also with NCCL") {
  if (cuda_device_count() < 2) {
    WARN("fewer than two GPUs in this build or machine: NCCL is not run");
    return;
  }
  check_ends({"stopped-process", 2, 1, "step", 3, "rank 1 on ", "has not answered for"}, "cuda");
  check_ends({"stopped-process", 2, 0, "save", 3, "rank 0 on ", "last: save at step 20, "}, "cuda");
  check_ends({"stopped-thread", 2, 1, "evaluation", 6, "rank 1 on ", "distributed.eval_timeout_seconds is 6"}, "cuda");
}

TEST_CASE("watchdog: a rank that does not start MPI ends the job, and is named") {
  const std::string line = "error: the job ends: MPI did not start on all ranks ";
  check_ends({"never-starts", 2, 1, "start", 4, line + "within 4 s; on ", ", local rank 1 is missing"});
  check_ends({"never-starts", 4, 0, "start", 4, line, ", local rank 0 is missing"});
}

TEST_CASE("watchdog: a rank that exits before it starts MPI ends the job, and is named") {
  // Open MPI itself may see it first.
  const ProgramResult result = run_program({"comm_ranks", "exits-at-once", "2", "1", "start", "cpu"}, {.ranks = 2});
  INFO(result.err);
  CHECK(result.exit_code != 0);
  CHECK(result.seconds < 4 + kMargin);
  CHECK_THAT(result.err, Contains("MPI did not start on all ranks ") && Contains(", local rank 1 is missing") ||
                             Contains("exited due to process rank 1 "));
}

TEST_CASE("watchdog: a rank that fails before the others have started ends the job with its error") {
  for (const int rank : {0, 2})
    check_ends({"fails-at-once", 3, rank, "start", 4, "error: rank ", "shard-00000.bin: damaged"});
}

TEST_CASE("watchdog: a rank that is killed ends the job immediately, through the launcher") {
  const ProgramResult result = run_program({"comm_ranks", "killed", "2", "1", "step", "cpu"}, {.ranks = 2});
  CHECK(result.exit_code == 128 + SIGKILL);
  CHECK(result.seconds < kMargin);
}

TEST_CASE("watchdog: the verdict names the ranks that do not answer, in every phase") {
  Table t(4);
  for (int rank = 0; rank < 4; ++rank) t.hear(rank, 100, Phase::save, 5);
  for (const int rank : {0, 1}) t.hear(rank, 109, Phase::save, 5);
  t.hear(3, 105, Phase::save, 5);
  CHECK(t.verdict(109.9).empty());
  CHECK(t.verdict(110.1) ==
        "the job ends: rank 2 on gpu7 has not answered for 10 s (last: save at step 17, in barrier (call 5)), "
        "rank 3 on gpu7 has not answered for 5 s (last: save at step 17, in barrier (call 5)); "
        "distributed.timeout_seconds is 10");
}

TEST_CASE("watchdog: the verdict names the ranks that the others wait for, after the time-out of their own phase") {
  Table t(3);
  const auto hear_all = [&](double seconds) {
    t.hear(0, seconds, Phase::save, 5, "all_gather");
    t.hear(1, seconds, Phase::step, 6);
    t.hear(2, seconds, Phase::step, 6);
  };
  for (int second = 0; second <= 20; ++second) {
    hear_all(second);
    CHECK(t.verdict(second).empty());
  }
  hear_all(20.1);
  CHECK(t.verdict(20.1) ==
        "the job ends: rank 0 on gpu7 has made no progress for 20 s (last: save at step 17, in all_gather (call 5)); "
        "distributed.save_timeout_seconds is 20");

  // Any change of its state is progress.
  t.hear(0, 20.2, Phase::save, 6);
  CHECK(t.verdict(20.2).empty());
}

TEST_CASE("watchdog: a rank that waits in the same call as one with a longer time-out is not named") {
  Table t(2);
  for (int second = 0; second <= 15; ++second) {
    t.hear(0, second, Phase::save, 5);
    t.hear(1, second, Phase::end, 5);
  }
  CHECK(t.verdict(15).empty());
}

TEST_CASE("watchdog: a rank without a first heartbeat is not watched, and the time of a suspension does not count") {
  Table t(2);
  t.hear(0, 0, Phase::step, 5);
  t.hear(0, 9, Phase::step, 6);
  CHECK(t.verdict(9).empty());
  t.hear(1, 9, Phase::step, 6);
  t.table.leave_out(Table::at(12), Table::at(30));
  CHECK(t.verdict(36.9).empty());
  CHECK_FALSE(t.verdict(37.1).empty());
}

TEST_CASE("watchdog: a rank that makes progress does not end the job, however short the time-outs are") {
  for (const double shortest : {1.0, 1.5, 4.0, 60.0})
    for (const PhaseTimeouts& timeouts :
         {PhaseTimeouts{.step = shortest}, {.start = shortest}, {.save = shortest}, {.evaluation = shortest}}) {
      INFO("shortest time-out " << shortest << ", heartbeats every " << timeouts.interval());
      for (const Phase phase : {Phase::start, Phase::step, Phase::save, Phase::evaluation}) {
        Table t(2, timeouts);
        // Rank 0 judges before it hears of the progress, and late.
        for (int i = 0; i < 5; ++i) {
          for (const int rank : {0, 1}) t.hear(rank, i * timeouts.interval(), phase, static_cast<std::uint64_t>(i));
          CHECK(t.verdict((i + 1.5) * timeouts.interval()).empty());
        }
      }
    }
  CHECK(PhaseTimeouts().interval() == 1);
}

TEST_CASE("watchdog: the verdict says that a rank does not answer also with a time-out of a second") {
  Table t(2, {.step = 1});
  for (const int rank : {0, 1}) t.hear(rank, 100, Phase::step, 5);
  t.hear(0, 101.1, Phase::step, 6);
  CHECK(t.verdict(101.2) ==
        "the job ends: rank 1 on gpu7 has not answered for 1 s (last: step 17, in barrier (call 5)); "
        "distributed.timeout_seconds is 1");
}

TEST_CASE("watchdog: a rank that hangs is found by a watchdog that rarely gets a processor") {
  Table t(2);
  double second = 0;
  for (; second < 40 && t.verdict(second).empty(); second += 3) {
    t.table.leave_out(Table::at(second + 1), Table::at(second + 3));
    t.hear(0, second + 3, Phase::step, 6);
    t.hear(1, second + 3, Phase::step, 5);
  }
  CHECK(second < 40);
}
