// A rank that stops must not make the others wait for ever: the job is down within its time-out and 10 s, and one line
// names the rank.
#include <signal.h>
#include <sys/types.h>

#include <chrono>
#include <cstdlib>
#include <thread>

#include "train/run_directory.h"

using namespace ssa::test;
using Catch::Matchers::Contains;

namespace {

constexpr double kTimeout = 3, kMargin = 10;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// The process of a rank of the job whose output_dir is the unique `output`: looked up in /proc.
pid_t process_of_rank(const std::string& output, int rank) {
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const std::string name = entry.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const auto read = [&](const char* file) {
      std::ifstream in(entry.path() / file);
      return std::string(std::istreambuf_iterator<char>(in), {});
    };
    const std::string command = read("cmdline");
    if (command.find("ssa_train") > 200 || command.find("mpi") < command.find("ssa_train") ||
        command.find(output) == std::string::npos)
      continue;
    const std::string key = std::string(1, '\0') + "OMPI_COMM_WORLD_RANK=" + std::to_string(rank) + '\0';
    if ((std::string(1, '\0') + read("environ")).find(key) != std::string::npos) return std::stoi(name);
  }
  return 0;
}

Names keys(const Names& more) {
  Names all = {"train.max_steps=100000", "checkpoint.save_steps=0", "distributed.timeout_seconds=3"};
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

/// Stops (SIGSTOP) a rank once `text` was printed; the job must end in time and name the rank and `phase`.
void check_stopped_rank(const RunDirectory& run, int ranks, int rank, const std::string& text, const Names& overrides,
                        const std::string& phase) {
  const std::string output = "watched-" + std::to_string(::getpid()) + "-" + std::to_string(rank);
  RunningProgram job(run.command(output, overrides), {.directory = run.path(), .ranks = ranks});
  for (int i = 0; i < 6000 && job.out().find(text) == std::string::npos; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  REQUIRE(job.out().find(text) != std::string::npos);
  const pid_t process = process_of_rank(output, rank);
  REQUIRE(process > 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(2500));  // some heartbeats
  const double begun = now();
  ::kill(process, SIGSTOP);
  const ProgramResult result = job.wait(kTimeout + 60);
  ::kill(process, SIGKILL);
  INFO("rank " << rank << " of " << ranks << ":\n" << result.err);
  CHECK(now() - begun < kTimeout + kMargin);
  CHECK(result.exit_code != 0);
  CHECK_THAT(result.err, Contains("error: the job is ended: rank " + std::to_string(rank) + " on ") &&
                             Contains("does not answer for") && Contains(phase));
}

}  // namespace

TEST_CASE("watchdog: a rank that is stopped in a step ends the job, and is named") {
  const RunDirectory run("full");
  check_stopped_rank(run, 2, 1, "step 3/", keys({}), "of step");
  check_stopped_rank(run, 2, 0, "step 3/", keys({}), "of step");
  check_stopped_rank(run, 4, 2, "step 3/", keys({"train.per_device_train_batch_size=1"}), "of step");
}

TEST_CASE("watchdog: a rank that is stopped for less than the time-out loses nothing") {
  const RunDirectory run("full");
  const Names overrides = {"train.max_steps=400", "distributed.timeout_seconds=20"};
  run.train_to_end("whole", overrides, {}, 2);
  const std::string output = "paused-" + std::to_string(::getpid());
  RunningProgram job(run.command(output, overrides), {.directory = run.path(), .ranks = 2});
  for (int i = 0; i < 6000 && job.out().find("step 3/") == std::string::npos; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  const pid_t process = process_of_rank(output, 1);
  REQUIRE(process > 0);
  ::kill(process, SIGSTOP);
  std::this_thread::sleep_for(std::chrono::seconds(8));
  ::kill(process, SIGCONT);
  const ProgramResult result = job.wait();
  INFO(result.out << result.err);
  CHECK(result.exit_code == 0);
  CHECK(run.metrics(output) == run.metrics("whole"));
}

TEST_CASE("watchdog: a rank that never starts MPI ends the job, and is named") {
  const RunDirectory run("full");
  // Rank 1 sleeps instead; the others wait for it in MPI_Init.
  std::string train;
  for (const std::string& word : run.command("out", {"distributed.start_timeout_seconds=3"}))
    train += (train.empty() ? (binary_dir() / word).string() : word) + " ";
  const double begun = now();
  const ProgramResult result =
      run_program({"/bin/bash", "-c", "[ $OMPI_COMM_WORLD_RANK = 1 ] && exec sleep 100; exec " + train},
                  {.directory = run.path(), .ranks = 2});
  INFO(result.err);
  CHECK(now() - begun < 3 + kMargin);
  CHECK(result.exit_code != 0);
  CHECK_THAT(result.err, Contains("MPI did not start on all ranks within 3 s") && Contains("local rank 1 is missing"));
}

TEST_CASE("watchdog: a rank that starts something else ends the job, and is named") {
  const RunDirectory run("full");
  std::string train;
  for (const std::string& word : run.command("out", {"distributed.start_timeout_seconds=3"}))
    train += (train.empty() ? (binary_dir() / word).string() : word) + " ";
  const double begun = now();
  const ProgramResult result =
      run_program({"/bin/bash", "-c", "[ $OMPI_COMM_WORLD_RANK = 1 ] && exec " + train + " --dry-run; exec " + train},
                  {.directory = run.path(), .ranks = 2});
  INFO(result.err);
  CHECK(now() - begun < 3 + kMargin);
  CHECK(result.exit_code != 0);
  CHECK_THAT(result.err,
             Contains("the run did not start on all ranks within 3 s") && Contains("local rank 1 is missing"));
}
