// A training job under mpirun whose ranks a test can signal.
#pragma once

#include <signal.h>
#include <sys/types.h>

#include <chrono>
#include <functional>
#include <optional>
#include <thread>

#include "support/make_dataset.h"
#include "train/run_directory.h"

namespace ssa::test {

inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// A command as one word of a shell.
inline std::string shell_command(const Arguments& command) {
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

  /// Sends a signal to a rank; waits for the rank to exist.
  void signal(int rank, int signal) {
    wait_for("rank " + std::to_string(rank), [&] { return process_of(rank) > 0; });
    stopped_.push_back(process_of(rank));
    ::kill(stopped_.back(), signal);
  }
  /// Waits until a rank exists and handles SIGUSR1, which would end it before.
  void wait_for_handler(int rank) {
    wait_for("rank " + std::to_string(rank) + " to handle SIGUSR1", [&] {
      const pid_t process = process_of(rank);
      const std::string status = process > 0 ? read_proc("/proc/" + std::to_string(process) + "/status") : "";
      const std::size_t at = status.find("SigCgt:");
      return at != std::string::npos && (std::stoull(status.substr(at + 7), nullptr, 16) >> (SIGUSR1 - 1) & 1) != 0;
    });
  }
  void wait_for_line(const std::string& text) const {
    wait_for(text, [&] { return program_->out().find(text) != std::string::npos; });
  }
  /// Waits until rank 0 has begun to write a checkpoint.
  void wait_for_save() const {
    const auto begun = [&] {
      return std::ranges::any_of(run_.checkpoints(output_),
                                 [](const std::string& name) { return name.ends_with("20"); });
    };
    wait_for("a checkpoint", begun, 0.0002);
  }
  /// To mpirun.
  void signal_launcher(int signal) { program_->kill(signal); }
  std::string out() const { return program_->out(); }
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

/// Writes the dataset held-out, whose evaluation takes some seconds.
inline void make_long_evaluation(const RunDirectory& run, std::int64_t documents = 30000) {
  make_dataset(run / "held-out", {random_documents(documents, 100, 1, 257)}, {.vocab_size = 272, .eos_token_id = 257});
}

}  // namespace ssa::test
