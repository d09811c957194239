// SSA_FAULT: every kind of failure happens where it says, and the run resumes from it to the same bits.
#include <signal.h>

#include <cstdlib>

#include "train/run_directory.h"

using namespace ssa::test;

namespace {

const Names kSaving = {"checkpoint.save_steps=2", "data.shuffle=true", "train.attention_stats_steps=2",
                       "train.eval_steps=4", "data.eval_path=data"};

/// A run with this SSA_FAULT.
ProgramResult train_with(const RunDirectory& run, const char* fault, const std::string& output, int ranks = 1,
                         Names overrides = {}) {
  overrides.insert(overrides.end(), kSaving.begin(), kSaving.end());
  ::setenv("SSA_FAULT", fault, 1);
  ProgramResult result = run.train(output, overrides, {}, ranks);
  ::unsetenv("SSA_FAULT");
  return result;
}

/// The run that never failed, on one rank.
void train_whole(const RunDirectory& run) { run.train_to_end("whole", kSaving); }

/// After the fault the same command completes the run, from `step`, with the state of the run that never failed.
void check_resumes(const RunDirectory& run, const std::string& output, int step) {
  const ProgramResult resumed = run.train(output, kSaving);
  INFO(resumed.out << resumed.err);
  CHECK(resumed.exit_code == 0);
  if (step > 0)
    CHECK_THAT(resumed.out,
               has("resuming from " + run.checkpoint(output, step).lexically_relative(run.path()).string()));
  CHECK(run.metrics(output) == run.metrics("whole"));
  check_same_state(run.checkpoint(output, 8), run.checkpoint("whole", 8));
}

}  // namespace

TEST_CASE("SSA_FAULT: a malformed one is wrong usage, before anything is written") {
  const RunDirectory run("full");
  check_fails(train_with(run, "kill@stp:7", "out"), 2,
              {"SSA_FAULT: kill@stp:7: unknown place \"stp\", expected start, step, save or eval"});
  CHECK_FALSE(fs::exists(run / "out"));
}

TEST_CASE("SSA_FAULT: kill, anywhere") {
  const RunDirectory run("ssa-sparse-stream");
  train_whole(run);
  for (const auto& [fault, step] : std::vector<std::pair<std::string, int>>{{"kill@start", 0},
                                                                            {"kill@start,operation:3", 0},
                                                                            {"kill@step:5", 4},
                                                                            {"kill@step:7,operation:2", 6},
                                                                            {"kill@save:2", 2},
                                                                            {"kill@save:2,operation:4", 2},
                                                                            {"kill@save:3,operation:12", 4},
                                                                            {"kill@eval:2", 6}}) {
    INFO(fault);
    const std::string output = "out-" + fault;
    const ProgramResult result = train_with(run, fault.c_str(), output);
    INFO(result.out << result.err);
    CHECK(result.signal == SIGKILL);
    CHECK(result.err == "SSA_FAULT: rank 0: " + fault + "\n");
    check_resumes(run, output, step);
  }
}

TEST_CASE("SSA_FAULT: stop, and the run continues after SIGCONT") {
  const RunDirectory run("ssa-sparse-stream");
  train_whole(run);
  Names all = kSaving;
  ::setenv("SSA_FAULT", "stop@step:5", 1);
  RunningProgram program(run.command("out", all), {.directory = run.path()});
  ::unsetenv("SSA_FAULT");
  for (int i = 0; i < 600 && program.out().find("step 4/8") == std::string::npos; ++i) program.ends_within(0.05);
  CHECK_FALSE(program.ends_within(0.5));
  CHECK(program.out().find("step 5/8") == std::string::npos);
  CHECK_THAT(program.out(), has("SSA_FAULT is set, this run rehearses a failure: stop@step:5"));
  program.kill(SIGCONT);
  CHECK(program.wait().exit_code == 0);
  check_resumes(run, "out", 8);
}

TEST_CASE("SSA_FAULT: a full disk, a disk that cannot be read, a slow one") {
  const RunDirectory run("ssa-sparse-stream");
  train_whole(run);
  const auto fails = [&](const std::string& fault, const std::string& message, int step) {
    INFO(fault);
    const ProgramResult result = train_with(run, fault.c_str(), "out-" + fault);
    INFO(result.out << result.err);
    CHECK(result.exit_code == 1);
    CHECK_THAT(result.err, has("SSA_FAULT: rank 0: " + fault) && has("error: " + message));
    check_resumes(run, "out-" + fault, step);
  };
  fails("enospc@save:1", "no space left on device: out-enospc@save:1/", 0);
  fails("enospc@save:3,operation:4", "no space left on device: out-", 4);
  fails("enospc@step:3", "no space left on device: out-enospc@step:3/metrics.jsonl", 2);
  fails("read@step:6", "data/shard-00000.bin: cannot read: Input/output error", 4);
  fails("read@start", "", 0);

  const ProgramResult slow = train_with(run, "slow@save:2,seconds:1.5", "slow");
  CHECK(slow.exit_code == 0);
  CHECK(slow.seconds > 1.5);
  check_resumes(run, "slow", 8);
}

TEST_CASE("SSA_FAULT: a bit that flips in the newest checkpoint costs only that checkpoint") {
  const RunDirectory run("ssa-sparse-stream");
  train_whole(run);
  const Names files = {"model.safetensors", "optimizer.safetensors", "trainer.json", "config.json", "manifest.json"};
  for (std::size_t i = 0; i < files.size(); ++i) {
    const std::string operation = std::to_string(i + 1), output = "out-" + operation;
    INFO(files[i]);
    const std::string fault = "bitflip@save:4,operation:" + operation;
    const ProgramResult result = train_with(run, fault.c_str(), output);
    INFO(result.out << result.err);
    CHECK(result.exit_code == 0);
    CHECK_THAT(result.err, has("SSA_FAULT: rank 0: " + fault + ": " + output + "/checkpoints/.tmp-step-00000008/") &&
                               has(files[i]));
    check_resumes(run, output, 6);
  }
}

TEST_CASE("SSA_FAULT: a NaN on one rank is found on that rank at every ZeRO stage, before it reaches the weights") {
  const RunDirectory run("ssa-sparse-stream");
  for (const char* stage : {"0", "1", "2", "3"})
    for (const char* rank : {"0", "1"}) {
      INFO("zero_stage " << stage << ", rank " << rank);
      const std::string output = std::string("out-") + stage + rank;
      const ProgramResult result = train_with(
          run, (std::string("nan@step:5,rank:") + rank).c_str(), output, 2,
          {"train.global_batch_size=4", "train.num_train_epochs=9", std::string("distributed.zero_stage=") + stage});
      INFO(result.out << result.err);
      CHECK(result.exit_code == 1);
      CHECK_THAT(result.err, has(std::string("step 5: loss or gradient is not finite on rank ") + rank) &&
                                 has("first tensor that is not finite: gradient of model.embed_tokens.weight") &&
                                 has("the last checkpoint is " + output + "/checkpoints/step-00000004"));
    }
}

TEST_CASE("SSA_FAULT: a job that ends with an error of any rank first writes the checkpoint that it has begun") {
  const RunDirectory run("full");
  // Rank 1 ends the job 2 s after its error, and the launcher rank 0 a second later; the checkpoint before takes
  // longer. The first sync of a save is that of metrics.jsonl.
  const ProgramResult result = train_with(run, "slow@save:1,rank:0,operation:2,seconds:4; read@step:3,rank:1", "out", 2,
                                          {"train.global_batch_size=4", "checkpoint.async=true"});
  INFO(result.out << result.err);
  CHECK(result.exit_code == 1);
  CHECK_THAT(result.err, has("error: rank 1: data/shard-00000.bin: cannot read"));
  CHECK(run.checkpoints("out") == Names{"step-00000002"});
}

TEST_CASE("SSA_FAULT: an error names the last checkpoint, which is the one that was being written when it came") {
  const RunDirectory run("full");
  const ProgramResult result = train_with(run, "slow@save:1,operation:2,seconds:1; nan@step:3", "out", 2,
                                          {"train.global_batch_size=4", "checkpoint.async=true"});
  INFO(result.out << result.err);
  CHECK(result.exit_code == 1);
  CHECK_THAT(result.err, has("step 3: loss or gradient is not finite on rank 0") &&
                             has("the last checkpoint is out/checkpoints/step-00000002\n"));
  CHECK(run.checkpoints("out") == Names{"step-00000002"});
}

namespace {

int count(const std::string& text, const std::string& part) {
  int found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

}  // namespace

TEST_CASE("SSA_FAULT: an error of a step and one of the checkpoint being written are both said, within seconds") {
  const RunDirectory run("full");
  for (const std::string step_error : {"nan@step:3", "read@step:3,rank:1"}) {
    INFO(step_error);
    const int ranks = step_error.ends_with("rank:1") ? 2 : 1;
    const std::string output = "out-" + step_error;
    // The second file of the checkpoint, after the sync of the first one.
    const ProgramResult result = train_with(
        run, ("slow@save:1,operation:2,seconds:1; enospc@save:1,operation:3; " + step_error).c_str(), output, ranks,
        {"train.global_batch_size=4", "checkpoint.async=true", "distributed.save_timeout_seconds=60"});
    INFO(result.out << result.err);
    CHECK(result.exit_code == 1);
    CHECK(result.seconds < 30);  // not the time-out of a save
    CHECK(count(result.err, ranks == 1 ? "is not finite on rank" : "cannot read") == 1);
    CHECK(count(result.err, "no space left on device: " + output) == 1);
    CHECK(count(result.err, "while saving " + output + "/checkpoints/step-00000002: ") == 1);
    if (ranks == 1) CHECK_THAT(result.err, has("the last checkpoint is none; while saving"));
    CHECK(run.checkpoints(output).empty());
  }
}
