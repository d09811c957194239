// Runs a program as a user does: its exit code, what it printed, how long it took.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace ssa::test {

using Arguments = std::vector<std::string>;

struct ProgramResult {
  int exit_code = -1;  ///< -1 when a signal ended it
  int signal = 0;      ///< that signal
  std::string out, err;
  double seconds = 0;
};

struct ProgramOptions {
  std::filesystem::path directory = {};  ///< to run in; empty: the current one
  int ranks = 1;                         ///< more than one: under mpirun
  std::int64_t largest_file = 0;         ///< bytes a file may have (writing more fails); 0: no limit
};

/// A program of the build, started in the constructor with one thread; gone at the latest with the object.
class RunningProgram {
 public:
  /// `arguments[0]` is the program's name, such as "ssa_train", or the path of another one.
  explicit RunningProgram(const Arguments& arguments, const ProgramOptions& options = {});
  ~RunningProgram();
  RunningProgram(const RunningProgram&) = delete;
  RunningProgram& operator=(const RunningProgram&) = delete;

  void kill(int signal);
  /// Whether it ends within `seconds`.
  bool ends_within(double seconds);
  /// Waits for the end; an Error with all it printed when it takes longer than `limit` seconds.
  ProgramResult wait(double limit = 300);
  /// What it printed on stdout so far.
  std::string out() const;

 private:
  pid_t pid_ = -1;
  int out_ = -1, err_ = -1;
  bool ended_ = false;
  int status_ = 0;
  double begun_, seconds_ = 0;
};

ProgramResult run_program(const Arguments& arguments, const ProgramOptions& options = {});

/// An error as the programs report it: this exit code, one line on stderr, and `parts` in it.
void check_fails(const ProgramResult& result, int exit_code, const std::vector<std::string>& parts);

}  // namespace ssa::test
