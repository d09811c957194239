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

void wait_for_error(const RunningProgram& program, const std::string& text) {
  const double limit = now() + 120;
  while (program.err().find(text) == std::string::npos && now() < limit)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  INFO("waited for " << text << ": " << program.err());
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
    make_long_evaluation(run, 400);
    const Names overrides = {"train.max_steps=4",
                             "train.per_device_train_batch_size=1",
                             "data.eval_path=held-out",
                             "train.eval_steps=2",
                             "checkpoint.save_steps=0",
                             "data.shuffle=true",
                             "distributed.timeout_seconds=100"};
    run.train_to_end("whole", overrides, {}, ranks);
    const auto whole = run.metrics("whole");
    REQUIRE(whole.size() == 4);

    // At step 2, then in the evaluation that the resumed run owes, then at the last step.
    for (const int step : {2, 2, 4}) {
      INFO("in the evaluation at step " << step);
      // The signal arrives in the second that the evaluation waits at its start. The process that ends at step 4 has
      // made the evaluation of step 2 before.
      const std::string fault = ssa::concat("slow@eval:", step / 4 + 1, ",seconds:1");
      ::setenv("SSA_FAULT", fault.c_str(), 1);
      RunningProgram program(run.command("stopped", overrides), {.directory = run.path(), .ranks = ranks});
      ::unsetenv("SSA_FAULT");
      wait_for_error(program, "SSA_FAULT: rank 0: " + fault);
      program.kill(ranks == 1 ? SIGTERM : SIGUSR1);
      const ProgramResult result = program.wait();
      INFO(result.out << result.err);
      CHECK(result.exit_code == 75);
      CHECK_THAT(result.out, Contains("after step " + std::to_string(step) + ";"));
      CHECK(fs::exists(run.checkpoint("stopped", step)));
      CHECK(run.metrics("stopped").size() == static_cast<std::size_t>(step));
      CHECK(run.metrics("stopped").back().count("eval_loss_sparse") == 0);
    }
    run.train_to_end("stopped", overrides, {}, ranks);
    CHECK(run.metrics("stopped") == whole);
    check_same_state(run.checkpoint("stopped", 4), run.checkpoint("whole", 4));
  }
}
