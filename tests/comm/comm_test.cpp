// Starts comm_ranks under mpirun and checks its output and exit code.
#include "ssa/comm/comm.h"

#include <sys/wait.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "support/catch.h"
#include "support/paths.h"

using namespace ssa;
using namespace ssa::test;

namespace {

struct Outcome {
  int exit_code;
  std::string output;  ///< stdout and stderr
  double seconds;

  int count(const std::string& text) const {
    int n = 0;
    for (std::size_t at = output.find(text); at != std::string::npos; at = output.find(text, at + 1)) ++n;
    return n;
  }
};

Outcome run(const std::string& command) {
  const auto begin = std::chrono::steady_clock::now();
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  REQUIRE(pipe);
  Outcome outcome{};
  std::array<char, 4096> buffer;
  while (const std::size_t n = fread(buffer.data(), 1, buffer.size(), pipe)) outcome.output.append(buffer.data(), n);
  const int status = pclose(pipe);
  outcome.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return outcome;
}

Outcome run_ranks_of(int ranks, const std::string& mode) {
  // Containers often run as root with fewer cores than ranks. MPI leaks memory at exit.
  return run("OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 ASAN_OPTIONS=detect_leaks=0 timeout 120 " +
             ssa::test::mpiexec() + " --oversubscribe -n " + std::to_string(ranks) + " " +
             ssa::test::binary_dir().string() + "/comm_ranks " + mode + " " + std::to_string(ranks));
}

}  // namespace

TEST_CASE("collectives equal the serial computation on 1, 2 and 3 ranks") {
  for (const int ranks : {1, 2, 3}) {
    const Outcome outcome = run_ranks_of(ranks, "collectives");
    INFO(outcome.output);
    CHECK(outcome.exit_code == kExitDone);
    CHECK(outcome.count("checked " + std::to_string(ranks) + " ranks") == ranks);
  }
}

TEST_CASE("collectives on device memory equal collectives on host memory, with one rank per GPU") {
  if (cuda_device_count() < 2) {
    WARN("fewer than two GPUs in this build or machine: NCCL is not run");
    return;
  }
  const int ranks = cuda_device_count();
  const Outcome outcome = run_ranks_of(ranks, "device-collectives");
  INFO(outcome.output);
  CHECK(outcome.exit_code == kExitDone);
  CHECK(outcome.count("checked " + std::to_string(ranks) + " GPUs") == ranks);
}

TEST_CASE("without a launcher there is one rank") {
  const Outcome outcome = run((ssa::test::binary_dir() / "comm_ranks collectives 1").string());
  INFO(outcome.output);
  CHECK(outcome.exit_code == kExitDone);
  CHECK(outcome.output == "checked 1 ranks\n");
  const Outcome error = run((ssa::test::binary_dir() / "comm_ranks error-on-all 1").string());
  CHECK(error.exit_code == kExitUsage);
  CHECK(error.output == "error: confg.json: misspelt\n");
  CHECK(run((ssa::test::binary_dir() / "comm_ranks abort 1").string()).exit_code == kExitStopped);
}

TEST_CASE("an error ends all ranks and is printed once") {
  struct Case {
    const char* mode;
    const char* message;
    int exit_code;
  };
  for (const Case& c : {Case{"error-on-all", "error: rank 0: confg.json: misspelt", kExitUsage},
                        {"error-on-first", "error: rank 0: shard-00000.bin: damaged", kExitFailed},
                        {"error-on-last", "error: rank 2: shard-00000.bin: damaged", kExitFailed},
                        {"error-on-all-but-first", "error: rank 1: not an ssa::Error", kExitFailed}}) {
    const Outcome outcome = run_ranks_of(3, c.mode);
    INFO(c.mode << ": " << outcome.output);
    CHECK(outcome.exit_code == c.exit_code);
    CHECK(outcome.count(c.message) == 1);
    CHECK(outcome.count("error: ") == 1);
    CHECK(outcome.seconds < 60);
  }
}

TEST_CASE("abort_all and a stopped run return their exit code through mpirun") {
  CHECK(run_ranks_of(2, "abort").exit_code == kExitStopped);
  CHECK(run_ranks_of(2, "stopped").exit_code == kExitStopped);
}

TEST_CASE("if MPI sees fewer ranks than were started, they fail and do not train separately") {
  // The environment of srun without an MPI plug-in: the step has two tasks, and MPI sees one rank in each.
  const Outcome outcome = run(
      "env -u OMPI_COMM_WORLD_SIZE SLURM_STEP_NUM_TASKS=2 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
      "ASAN_OPTIONS=detect_leaks=0 timeout 60 " +
      ssa::test::binary_dir().string() + "/comm_ranks collectives 2");
  INFO(outcome.output);
  CHECK(outcome.exit_code == kExitFailed);
  CHECK(outcome.count("MPI sees 1 ranks, expected the 2 that were started") == 1);
}
