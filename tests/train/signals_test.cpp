// Signals that stop a job of several ranks, and a signal during an evaluation: the run stops soon, is saved, ends with
// exit code 75, and loses nothing.
#include "train/rank_job.h"

using namespace ssa::test;
using Catch::Matchers::Contains;

namespace {

void check_stopped(const RunDirectory& run, const std::string& output, const ProgramResult& result) {
  INFO(result.out << result.err);
  CHECK(result.exit_code == 75);
  CHECK_THAT(result.out, Contains("stopped by signal "));
  CHECK(run.checkpoints(output).size() == 1);
}

void wait_for(const RunningProgram& program, const std::string& text) {
  const double limit = now() + 120;
  while (program.out().find(text) == std::string::npos && now() < limit)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  INFO("waited for " << text << ": " << program.out());
  REQUIRE(now() < limit);
}

}  // namespace

TEST_CASE("signals: SIGUSR1 to mpirun stops all ranks in a step of any length") {
  for (const int ranks : {2, 4}) {
    const RunDirectory run("full");
    Job job(run, ranks, {"checkpoint.save_steps=0"});
    job.wait_for_line("step 3/");
    job.signal_launcher(SIGUSR1);
    check_stopped(run, job.output(), job.end());
  }
  // Steps of some seconds: mpirun would end the ranks one second after SIGTERM.
  const RunDirectory run("full");
  make_long_evaluation(run);
  Job job(run, 2,
          {"checkpoint.save_steps=0", "data.path=held-out", "train.per_device_train_batch_size=2000",
           "distributed.timeout_seconds=100"});
  job.wait_for_line("step 1/");
  job.signal_launcher(SIGUSR1);
  check_stopped(run, job.output(), job.end());
}

TEST_CASE("signals: SIGUSR1 to mpirun while the ranks start stops them after they have started") {
  const RunDirectory run("full");
  Job job(run, 2, {"checkpoint.save_steps=0"});
  job.wait_for_handler(0);
  job.wait_for_handler(1);
  job.signal_launcher(SIGUSR1);
  check_stopped(run, job.output(), job.end());
  CHECK_THAT(job.out(), Contains("after step 0;"));
}

TEST_CASE("signals: a signal to the ranks themselves, as srun sends it, stops all ranks, even if only one gets it") {
  for (const int signal : {SIGUSR1, SIGTERM}) {
    const RunDirectory run("full");
    Job job(run, 2, {"checkpoint.save_steps=0"});
    job.wait_for_line("step 3/");
    job.signal(1, signal);
    if (signal == SIGTERM) job.signal(0, signal);
    check_stopped(run, job.output(), job.end());
  }
}

TEST_CASE("signals: in an evaluation the run stops after the batch, and the resumed run repeats the evaluation") {
  for (const int ranks : {1, 2}) {
    const RunDirectory run("ssa-sparse-stream");
    make_long_evaluation(run, 4000);
    const Names overrides = {"train.max_steps=4",
                             "train.per_device_train_batch_size=1",
                             "data.eval_path=held-out",
                             "train.eval_steps=2",
                             "checkpoint.save_steps=0",
                             "data.shuffle=true",
                             "distributed.timeout_seconds=100"};
    RunningProgram undisturbed(run.command("whole", overrides), {.directory = run.path(), .ranks = ranks});
    wait_for(undisturbed, "step 1/");
    const double begun = now();
    wait_for(undisturbed, "step 2/");
    const double evaluation_seconds = now() - begun;  // a step is much shorter
    REQUIRE(undisturbed.wait().exit_code == 0);
    const auto whole = run.metrics("whole");
    REQUIRE(whole.size() == 4);

    // At step 2, then in the evaluation that the resumed run owes, then at the last step.
    for (const int step : {2, 2, 4}) {
      INFO("in the evaluation at step " << step);
      RunningProgram program(run.command("stopped", overrides), {.directory = run.path(), .ranks = ranks});
      wait_for(program, step == 4                                               ? "step 3/"
                        : fs::exists(run / "stopped/checkpoints/step-00000002") ? "resuming from"
                                                                                : "step 1/");
      std::this_thread::sleep_for(std::chrono::duration<double>(evaluation_seconds / 3));
      program.kill(ranks == 1 ? SIGTERM : SIGUSR1);
      const double sent = now();
      const ProgramResult result = program.wait();
      INFO(result.out << result.err);
      CHECK(result.exit_code == 75);
      CHECK_THAT(result.out, Contains("after step " + std::to_string(step) + ";"));
      CHECK(now() - sent < 10);
      CHECK(fs::exists(run.checkpoint("stopped", step)));
      CHECK(run.metrics("stopped").size() == static_cast<std::size_t>(step));
      CHECK(run.metrics("stopped").back().count("eval_loss_sparse") == 0);
    }
    run.train_to_end("stopped", overrides, {}, ranks);
    CHECK(run.metrics("stopped") == whole);
    check_same_state(run.checkpoint("stopped", 4), run.checkpoint("whole", 4));
  }
}
