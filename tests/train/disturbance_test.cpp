// What a shared machine does to a run: a second run in the same directory, signals, a closed console, a limit on file
// sizes, a dataset that shrinks while it is read.
#include <signal.h>

#include <chrono>
#include <thread>

#include "train/run_directory.h"

using namespace ssa::test;
using Catch::Matchers::Contains;

namespace {

/// Enough steps that a run does not end before the test disturbs it.
const Names kLong = {"train.max_steps=100000", "checkpoint.save_steps=0"};

/// Waits until the program has logged step 3.
void wait_for_steps(const RunningProgram& program) {
  for (int i = 0; i < 3000 && program.out().find("step 3/") == std::string::npos; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  INFO(program.out());
  REQUIRE(program.out().find("step 3/") != std::string::npos);
}

}  // namespace

TEST_CASE("disturbance: a second run in the same output_dir is refused and names the first, which continues") {
  const RunDirectory run("full");
  RunningProgram first(run.command("out", kLong), {.directory = run.path()});
  wait_for_steps(first);
  check_fails(run.train("out", kLong), 2, {"out: in use by host ", ", process ", ", since 20"});
  check_fails(run.train("out", kLong, {"--resume", "none"}), 2, {"in use by"});
  const ProgramResult ranks = run.train("out", kLong, {}, 2);
  CHECK(ranks.exit_code == 2);
  CHECK_THAT(ranks.err, Contains("error: rank 0: out: in use by host "));
  first.kill(SIGTERM);
  CHECK(first.wait().exit_code == 75);
  // A killed run holds nothing: the next one starts at once.
  RunningProgram second(run.command("out", kLong), {.directory = run.path()});
  for (int i = 0; i < 3000 && second.out().find("step ") == std::string::npos; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  second.kill(SIGKILL);
  second.wait();
  run.train_to_end("other", {});
}

TEST_CASE("disturbance: SIGHUP stops a run as SIGTERM does") {
  const RunDirectory run("full");
  RunningProgram program(run.command("out", kLong), {.directory = run.path()});
  wait_for_steps(program);
  program.kill(SIGHUP);
  const ProgramResult result = program.wait();
  CHECK(result.exit_code == 75);
  CHECK_THAT(result.out, Contains("stopped by signal 1 after step"));
  CHECK(run.checkpoints("out").size() == 1);
}

TEST_CASE("disturbance: a console that closes does not end a run") {
  const RunDirectory run("full");
  const ProgramResult result = run_bash(run, "$TRAIN | head -n 1; exit ${PIPESTATUS[0]}");
  INFO(result.out << result.err);
  CHECK(result.exit_code == 0);
  CHECK(run.metrics("out").size() == 8);
}

TEST_CASE("disturbance: a limit on the size of files ends a run with the file's name") {
  const RunDirectory run("full");
  check_fails(run_bash(run, "ulimit -f 100; $TRAIN"), 1, {"safetensors", "File too large"});
}

TEST_CASE("disturbance: a dataset truncated while it is read ends a run with the file's name") {
  const RunDirectory run("full");
  RunningProgram program(run.command("out", kLong), {.directory = run.path()});
  wait_for_steps(program);
  fs::resize_file(run / "data" / "shard-00000.bin", 0);
  check_fails(program.wait(), 1, {"data/shard-00000.bin", "truncated while in use"});
}
