#include "support/run_program.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <thread>

#include "ssa/base/error.h"
#include "support/catch.h"
#include "support/paths.h"

namespace ssa::test {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// An anonymous file in memory that collects an output stream of the program.
int make_capture(const char* name) {
  const int fd = ::memfd_create(name, MFD_CLOEXEC);
  SSA_CHECK(fd >= 0, "memfd_create: ", std::strerror(errno));
  return fd;
}

std::string content(int fd) {
  std::string text;
  char piece[4096];
  for (ssize_t got; (got = ::pread(fd, piece, sizeof piece, static_cast<off_t>(text.size()))) > 0;)
    text.append(piece, static_cast<std::size_t>(got));
  return text;
}

Arguments command_line(const Arguments& arguments, int ranks) {
  Arguments command;
  if (ranks > 1) command = {mpiexec(), "--oversubscribe", "-n", std::to_string(ranks)};
  const bool has_path = arguments.at(0).find('/') != std::string::npos;
  command.push_back(has_path ? arguments[0] : (binary_dir() / arguments[0]).string());
  command.insert(command.end(), arguments.begin() + 1, arguments.end());
  return command;
}

}  // namespace

RunningProgram::RunningProgram(const Arguments& arguments, const ProgramOptions& options)
    : out_(make_capture("stdout")), err_(make_capture("stderr")), start_(now()) {
  Arguments command = command_line(arguments, options.ranks);
  std::vector<char*> argv;
  for (std::string& argument : command) argv.push_back(argument.data());
  argv.push_back(nullptr);
  pid_ = ::fork();
  SSA_CHECK(pid_ >= 0, "fork: ", std::strerror(errno));
  if (pid_ > 0) return;

  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::dup2(::open("/dev/null", O_RDONLY), STDIN_FILENO);
  ::dup2(out_, STDOUT_FILENO);
  ::dup2(err_, STDERR_FILENO);
  if (!options.directory.empty() && ::chdir(options.directory.c_str()) != 0) ::_exit(126);
  if (options.largest_file > 0) {
    // An ignored signal stays ignored after exec: a write past the limit then fails with EFBIG.
    ::signal(SIGXFSZ, SIG_IGN);
    const auto bytes = static_cast<rlim_t>(options.largest_file);
    const rlimit limit{bytes, bytes};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) ::_exit(126);
  }
  ::setenv("OMP_NUM_THREADS", "1", 1);
  ::setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
  ::setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
  if (options.ranks > 1) ::setenv("ASAN_OPTIONS", "detect_leaks=0", 1);  // MPI leaks at exit
  ::execv(argv[0], argv.data());
  ::_exit(127);
}

RunningProgram::~RunningProgram() {
  if (!ended_) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  ::close(out_);
  ::close(err_);
}

void RunningProgram::kill(int signal) {
  if (!ended_) ::kill(pid_, signal);
}

bool RunningProgram::ends_within(double seconds) {
  const double until = now() + seconds;
  while (!ended_) {
    const pid_t got = ::waitpid(pid_, &status_, WNOHANG);
    SSA_CHECK(got >= 0, "waitpid: ", std::strerror(errno));
    if (got == pid_) {
      ended_ = true;
      seconds_ = now() - start_;
      break;
    }
    const double left = until - now();
    if (left <= 0) return false;
    std::this_thread::sleep_for(std::chrono::duration<double>(std::min(left, 0.002)));
  }
  return true;
}

ProgramResult RunningProgram::wait(double limit) {
  SSA_CHECK(ends_within(limit), "still running after ", limit, " s; it printed: ", out(), content(err_));
  ProgramResult result{.out = out(), .err = content(err_), .seconds = seconds_};
  if (WIFEXITED(status_)) result.exit_code = WEXITSTATUS(status_);
  if (WIFSIGNALED(status_)) result.signal = WTERMSIG(status_);
  return result;
}

std::string RunningProgram::out() const { return content(out_); }
std::string RunningProgram::err() const { return content(err_); }

ProgramResult run_program(const Arguments& arguments, const ProgramOptions& options) {
  return RunningProgram(arguments, options).wait();
}

void check_fails(const ProgramResult& result, int exit_code, const std::vector<std::string>& parts) {
  INFO("exit code " << result.exit_code << ", signal " << result.signal << "\nstdout: " << result.out
                    << "\nstderr: " << result.err);
  CHECK(result.exit_code == exit_code);
  std::string error, line;
  for (std::istringstream lines(result.err); std::getline(lines, line);)
    if (line.find("] [warning] ") == std::string::npos) error += line + '\n';
  CHECK(std::count(error.begin(), error.end(), '\n') == 1);
  CHECK(result.err.ends_with("\n"));
  for (const std::string& part : parts) CHECK_THAT(error, has(part));
}

}  // namespace ssa::test
