// A job on two "machines": network namespaces of this host, with MPI over TCP between them.
#include <cstdio>
#include <cstdlib>
#include <optional>

#include "train/run_directory.h"

using namespace ssa::test;

namespace {

/// Runs the command with `ranks` ranks on each of two machines; nullopt, and a line for ctest, where that is not
/// possible.
std::optional<ProgramResult> on_two_machines(const RunDirectory& run, int ranks, Arguments command) {
  command[0] = (binary_dir() / command[0]).string();
  command.insert(command.begin(), {(source_dir() / "tests/train/two_machines.sh").string(), std::to_string(ranks)});
  // Leak checks: MPI leaks at exit.
  for (const char* variable :
       {"OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1", "ASAN_OPTIONS=detect_leaks=0"})
    command.insert(command.begin(), variable);
  command.insert(command.begin(), "/usr/bin/env");
  ProgramResult result = run_program(command, {.directory = run.path()});
  if (result.exit_code != 77) return result;
  std::fputs(result.out.c_str(), stdout);
  return std::nullopt;
}

}  // namespace

TEST_CASE("machines: two machines with two ranks each give the bits of four ranks on one") {
  const RunDirectory run("ssa-sparse-stream");
  const Names overrides = {"train.global_batch_size=8", "train.max_steps=6", "train.num_train_epochs=99",
                           "checkpoint.save_steps=3", "distributed.zero_stage=2"};
  const std::optional<ProgramResult> two = on_two_machines(run, 2, run.command("two", overrides));
  if (!two) return;
  INFO(two->out << two->err);
  REQUIRE(two->exit_code == 0);
  run.train_to_end("one", overrides, {}, 4);
  CHECK(run.metrics("two") == run.metrics("one"));
  check_same_state(run.checkpoint("two", 6), run.checkpoint("one", 6));
}

TEST_CASE("machines: an error on the second machine ends the job and names its rank") {
  const RunDirectory run("full");
  ::setenv("SSA_FAULT", "read@step:3,rank:1", 1);
  const std::optional<ProgramResult> failed =
      on_two_machines(run, 1, run.command("out", {"train.global_batch_size=4", "checkpoint.save_steps=2"}));
  ::unsetenv("SSA_FAULT");
  if (!failed) return;
  INFO(failed->out << failed->err);
  CHECK(failed->exit_code == 1);
  CHECK_THAT(failed->err, has("error: rank 1: data/shard-00000.bin: cannot read: Input/output error"));
  CHECK(run.checkpoints("out") == Names{"step-00000002"});
}

TEST_CASE("machines: ranks that run another config on the second machine are named") {
  const RunDirectory run("full");
  const std::string train = "exec " + (binary_dir() / "ssa_train").string() + " --config config.json --device cpu";
  const std::string line = train + " --set train.seed=$OMPI_COMM_WORLD_RANK";
  const std::optional<ProgramResult> differ = on_two_machines(run, 1, {"/bin/sh", "-c", line});
  if (!differ) return;
  INFO(differ->out << differ->err);
  CHECK(differ->exit_code == 1);
  CHECK_THAT(differ->err, has("rank 1 differs from rank 0: found train.seed"));
}
