// Runs a program as a user does, and reports its exit code, its output and its run time.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace ssa::test {

using Arguments = std::vector<std::string>;

struct ProgramResult {
  int exit_code = -1;  ///< -1 if a signal ended the program
  int signal = 0;      ///< the signal, or 0
  std::string out, err;
  double seconds = 0;
};

inline std::string log_of(const ProgramResult& result) { return result.out + result.err; }

struct ProgramOptions {
  std::filesystem::path directory = {};  ///< working directory; empty: the current one
  int ranks = 1;                         ///< with more than one, the program runs under mpirun
  std::int64_t largest_file = 0;         ///< largest file in bytes, a longer write fails; 0: no limit
};

/// A program of this build. The constructor starts it with one OpenMP thread; the destructor kills it if it still runs.
class RunningProgram {
 public:
  /// `arguments[0]` is the name of a program of this build, such as "ssa_train", or the path of another program.
  explicit RunningProgram(const Arguments& arguments, const ProgramOptions& options = {});
  ~RunningProgram();
  RunningProgram(const RunningProgram&) = delete;
  RunningProgram& operator=(const RunningProgram&) = delete;

  void kill(int signal);
  /// Waits for at most `seconds`; true if the program has ended.
  bool ends_within(double seconds);
  /// Waits for the program to end; throws an Error with its output after `limit` seconds.
  ProgramResult wait(double limit = 300);
  /// Its stdout and its stderr so far.
  std::string out() const;
  std::string err() const;

 private:
  pid_t pid_ = -1;
  int out_ = -1, err_ = -1;
  bool ended_ = false;
  int status_ = 0;
  double start_, seconds_ = 0;
};

ProgramResult run_program(const Arguments& arguments, const ProgramOptions& options = {});

/// Checks that the program failed with this exit code and one line on stderr, besides warnings, that contains
/// each of `parts`.
void check_fails(const ProgramResult& result, int exit_code, const std::vector<std::string>& parts);

}  // namespace ssa::test
