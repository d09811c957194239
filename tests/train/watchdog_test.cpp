// A rank that stops must not make the others wait forever: every rank is down within the time-out and 10 s, and one
// line names the rank and what it was last doing. tests/comm/watchdog_test.cpp has more ways to stop.
#include "train/rank_job.h"

using namespace ssa::test;
using Catch::Matchers::Contains;

namespace {

constexpr double kTimeout = 4, kMargin = 10;

/// The job, in which `rank` was just stopped, ends in time and names it.
void check_ends(Job& job, int rank, const std::string& doing, double timeout = kTimeout) {
  const double stopped = now();
  const ProgramResult result = job.end(timeout + 60);
  INFO("rank " << rank << ", " << doing << ":\n" << result.err);
  CHECK(now() - stopped < timeout + kMargin);
  CHECK(result.exit_code == 1);
  CHECK_THAT(result.err,
             Contains("error: the job ends: ") && Contains("rank " + std::to_string(rank)) && Contains(doing));
  const std::size_t first = result.err.find("error: ");
  CHECK(result.err.find("error: ", first + 1) == std::string::npos);
}

}  // namespace

TEST_CASE("watchdog: a rank that is stopped in a step ends the job, and is named") {
  for (const auto& [ranks, rank] : {std::pair{2, 1}, {2, 0}, {4, 2}}) {
    const RunDirectory run("full");
    Job job(run, ranks, {"checkpoint.save_steps=0"});
    job.wait_for_line("step 3/");
    std::this_thread::sleep_for(std::chrono::milliseconds(1500));  // a heartbeat from a later step than the first
    job.signal(rank, SIGSTOP);
    check_ends(job, rank, "(last: step ");
  }
}

TEST_CASE("watchdog: a rank that is stopped in a save ends the job, and is named") {
  for (const int ranks : {2, 4}) {
    const RunDirectory run("full");
    Job job(run, ranks, {"checkpoint.save_steps=20"});
    job.wait_for_save();
    job.signal(0, SIGSTOP);
    check_ends(job, 0, "save at step 20");
  }
}

TEST_CASE("watchdog: a rank that is stopped in an evaluation ends the job, and is named") {
  for (const auto& [ranks, rank] : {std::pair{2, 1}, {4, 3}}) {
    const RunDirectory run("full");
    make_long_evaluation(run);
    Job job(run, ranks, {"data.eval_path=held-out", "train.eval_steps=2", "checkpoint.save_steps=0"});
    job.wait_for_line("step 1/");
    std::this_thread::sleep_for(std::chrono::milliseconds(1500));
    job.signal(rank, SIGSTOP);
    check_ends(job, rank, "evaluation at step 2");
  }
}

TEST_CASE("watchdog: a rank that is stopped at the start ends the job, and is named") {
  for (const int ranks : {2, 4}) {
    const RunDirectory run("full");
    Job job(run, ranks, {"distributed.start_timeout_seconds=6"});
    job.signal(1, SIGSTOP);
    check_ends(job, 1, "start", 6);
  }
}

TEST_CASE("watchdog: a rank that is stopped for less than the time-out loses nothing") {
  const RunDirectory run("full");
  const Names overrides = {"train.max_steps=300", "train.per_device_train_batch_size=1",
                           "distributed.timeout_seconds=20"};
  run.train_to_end("whole", overrides, {}, 2);
  Job job(run, 2, overrides);
  job.wait_for_line("step 3/");
  job.signal(1, SIGSTOP);
  std::this_thread::sleep_for(std::chrono::seconds(8));
  job.signal(1, SIGCONT);
  const ProgramResult result = job.end();
  INFO(result.out << result.err);
  CHECK(result.exit_code == 0);
  CHECK(run.metrics(job.output()) == run.metrics("whole"));
}

TEST_CASE("watchdog: a rank that runs another program or ends early ends the job, and is named") {
  for (const char* other : {"exec sleep 100", "exec $TRAIN --dry-run", "exec $TRAIN --help", "exit 0"}) {
    const RunDirectory run("full");
    const std::string train = shell_command(run.command("out", {"distributed.start_timeout_seconds=4"}));
    const std::string line = "TRAIN='" + train + "'; [ $OMPI_COMM_WORLD_RANK = 1 ] && " + other + "; exec $TRAIN";
    const double begun = now();
    const ProgramResult result = run_program({"/bin/bash", "-c", line}, {.directory = run.path(), .ranks = 2});
    INFO(other << "\n" << result.err);
    CHECK(now() - begun < kTimeout + kMargin);
    CHECK(result.exit_code == 1);
    CHECK_THAT(result.err,
               Contains("error: the job ends: MPI did not start on all ranks ") && Contains("local rank 1 is missing"));
  }
}
