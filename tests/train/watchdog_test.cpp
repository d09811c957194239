// A rank that stops must not make the others wait forever: every rank is down within the time-out and 10 s, and one line
// names the rank and what it was last doing. tests/comm/watchdog_test.cpp has more ways to stop.
#include <signal.h>
#include <sys/types.h>

#include <chrono>
#include <functional>
#include <thread>

#include "support/make_dataset.h"
#include "train/run_directory.h"

using namespace ssa::test;
using Catch::Matchers::Contains;

namespace {

constexpr double kTimeout = 4, kMargin = 10;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// A command as one word of a shell.
std::string shell_command(const Arguments& command) {
  std::string text;
  for (const std::string& word : command) text += (text.empty() ? (binary_dir() / word).string() : word) + " ";
  return text;
}

/// A job under mpirun that trains for long, in a directory of its own.
class Job {
 public:
  /// `overrides` come after the keys of such a job.
  Job(const RunDirectory& run, int ranks, const Names& overrides) : run_(run) {
    Names all = {"train.max_steps=100000", "train.per_device_train_batch_size=1", "distributed.timeout_seconds=4"};
    all.insert(all.end(), overrides.begin(), overrides.end());
    program_.emplace(run.command(output_, all), ProgramOptions{.directory = run.path(), .ranks = ranks});
  }
  ~Job() { end_ranks(); }

  /// Sends a signal to a rank, which is waited for.
  void signal(int rank, int signal) {
    wait_for("rank " + std::to_string(rank), [&] { return process_of(rank) > 0; });
    stopped_.push_back(process_of(rank));
    ::kill(stopped_.back(), signal);
  }
  void wait_for_line(const std::string& text) const {
    wait_for(text, [&] { return program_->out().find(text) != std::string::npos; });
  }
  /// Waits until rank 0 has begun to write a checkpoint.
  void wait_for_save() const {
    wait_for(
        "a checkpoint", [&] { return !run_.checkpoints(output_).empty(); }, 0.0002);
  }
  ProgramResult end(double limit = 300) { return program_->wait(limit); }
  const std::string& output() const { return output_; }

 private:
  static void wait_for(const std::string& what, const std::function<bool()>& there, double poll = 0.01) {
    const double until = now() + 120;
    while (!there()) {
      INFO("waited for " << what);
      REQUIRE(now() < until);
      std::this_thread::sleep_for(std::chrono::duration<double>(poll));
    }
  }
  static std::string read_proc(const fs::path& file) {
    std::ifstream in(file);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  /// The process of a rank, found in /proc by its command and environment; 0 if it is not there.
  pid_t process_of(int rank) const {
    const std::string variable = std::string(1, '\0') + "OMPI_COMM_WORLD_RANK=" + std::to_string(rank) + '\0';
    for (const auto& entry : fs::directory_iterator("/proc")) {
      const std::string name = entry.path().filename().string();
      if (name.find_first_not_of("0123456789") != std::string::npos) continue;
      const std::string command = read_proc(entry.path() / "cmdline");
      std::error_code gone;
      if (command.substr(0, command.find('\0')) != (binary_dir() / "ssa_train").string() ||
          fs::read_symlink(entry.path() / "cwd", gone) != run_.path())
        continue;
      if ((std::string(1, '\0') + read_proc(entry.path() / "environ")).find(variable) != std::string::npos)
        return std::stoi(name);
    }
    return 0;
  }
  void end_ranks() const {
    for (const pid_t process : stopped_)
      if (read_proc("/proc/" + std::to_string(process) + "/cmdline").find("ssa_train") != std::string::npos)
        ::kill(process, SIGKILL);
  }

  std::string output_ = "watched";
  const RunDirectory& run_;
  std::optional<RunningProgram> program_;
  std::vector<pid_t> stopped_;
};

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

/// An evaluation of some seconds on two ranks.
void make_long_evaluation(const RunDirectory& run) {
  make_dataset(run / "held-out", {random_documents(30000, 100, 1, 257)}, {.vocab_size = 272, .eos_token_id = 257});
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

TEST_CASE("watchdog: a rank that does something else ends the job, and is named") {
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
