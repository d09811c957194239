// A run that was interrupted and resumed equals one that never stopped. Runs ssa_train as a program, on one and on two
// ranks, and interrupts it by signals, kills and full disks.
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <thread>

#include "ssa/base/random.h"
#include "ssa/io/safetensors.h"
#include "support/make_dataset.h"
#include "support/skip.h"
#include "support/skip_without_fp8.h"
#include "train/run_directory.h"

using namespace ssa;
using namespace ssa::test;

namespace {

struct MethodCase {
  const char* name;       ///< of the golden case
  const char* cuda_name;  ///< of a golden case that the CUDA kernels support
  Names overrides;        ///< enable everything that draws random numbers
};

const std::vector<MethodCase>& methods() {
  static const std::vector<MethodCase> cases = {
      {"ssa-sparse-stream",
       "head64-ssa-sparse-stream",
       {"data.shuffle=true", "attention.full_stream_probability=0.5", "train.attention_stats_steps=2",
        "train.eval_steps=3", "data.eval_path=data"}},
      {"full", "head64-full", {"data.shuffle=true"}},
      {"moba", "head64-moba", {"data.shuffle=true"}},
      {"nsa", "head64-nsa-window", {"data.shuffle=true"}}};
  return cases;
}

/// Checks that the losses of every step agree within a relative tolerance.
void check_losses(const std::vector<nlohmann::json>& got, const std::vector<nlohmann::json>& want, double tolerance) {
  REQUIRE(got.size() == want.size());
  for (std::size_t i = 0; i < got.size(); ++i)
    for (const char* key : {"loss", "ce_loss", "alignment_loss", "grad_norm"}) {
      const double have = got[i].at(key), expected = want[i].at(key);
      INFO("step " << i + 1 << ", " << key << ": " << have << ", expected " << expected);
      CHECK(std::abs(have - expected) <= tolerance * std::abs(expected));
    }
}

/// Copies a run with only the checkpoint of step `step`; metrics.jsonl keeps the lines of later steps.
void copy_run_at(const RunDirectory& run, const std::string& from, const std::string& to, int step) {
  fs::copy(run / from, run / to, fs::copy_options::recursive);
  for (const std::string& name : run.checkpoints(to))
    if (run / to / "checkpoints" / name != run.checkpoint(to, step)) fs::remove_all(run / to / "checkpoints" / name);
}

/// Trains 8 steps in one run, and resumes it after 4 steps.
void check_halves(const RunDirectory& run, const Names& overrides) {
  const Names saving = with(overrides, {"checkpoint.save_steps=4"});
  run.train_to_end("whole", saving);
  REQUIRE(run.checkpoints("whole") == Names{"step-00000004", "step-00000008"});
  const auto whole = run.metrics("whole");
  REQUIRE(whole.size() == 8);

  // --resume auto finds the checkpoint; the lines of steps 5 to 8 in metrics.jsonl are dropped.
  copy_run_at(run, "whole", "halves", 4);
  run.train_to_end("halves", saving);
  CHECK(run.metrics("halves") == whole);
  check_same_state(run.checkpoint("halves", 8), run.checkpoint("whole", 8));

  // --resume names the checkpoint; the run saves asynchronously to another directory.
  run.train_to_end("named", with(saving, {"checkpoint.async=true"}), {"--resume", run.checkpoint("whole", 4).string()});
  check_same_state(run.checkpoint("named", 8), run.checkpoint("whole", 8));
}

}  // namespace

TEST_CASE("resume: a run resumed after 4 of 8 steps equals an uninterrupted run bit for bit, with every method") {
  for (const MethodCase& method : methods()) {
    INFO(method.name);
    check_halves(RunDirectory(method.name), method.overrides);
  }
}

TEST_CASE("resume: a resumed run equals an uninterrupted run bit for bit on CUDA, with every method") {
  if (skip_without_gpu()) return;
  for (const MethodCase& method : methods()) {
    INFO(method.cuda_name);
    check_halves(RunDirectory(method.cuda_name, "cuda"), method.overrides);
  }
}

TEST_CASE(
    "resume: a run in FP8 that resumes equals an uninterrupted run bit for bit, and its checkpoint continues without "
    "FP8") {
  const RunDirectory run("ssa-sparse-stream");
  const Names fp8 = {"train.fp8=linear", "train.max_length=32"};
  check_halves(run, with(fp8, {"train.attention_stats_steps=2", "train.eval_steps=3", "data.eval_path=data"}));
  run.train_to_end("plain", {"train.max_length=32", "checkpoint.save_steps=4"});
  CHECK(run.metrics("plain")[0].at("loss") != run.metrics("whole")[0].at("loss"));
  copy_run_at(run, "whole", "without", 4);
  run.train_to_end("without", {"train.max_length=32", "checkpoint.save_steps=4"});
  CHECK(run.metrics("without").size() == 8);
}

TEST_CASE("resume: a run with the LM head in FP8 that resumes equals an uninterrupted run bit for bit") {
  const RunDirectory run("full-untied-llama3rope");
  // A vocabulary of bytes, and 140 outputs of qkvg_proj: neither is a multiple of 16.
  make_dataset(run / "bytes", {random_documents(40, 32, 2)});
  const Names plain = {"train.max_length=32", "init_from=null", "model.vocab_size=257", "model.eos_token_id=256",
                       "data.path=bytes"};
  check_halves(run, with(plain, {"train.fp8=all"}));
  run.train_to_end("plain", plain);
  // Both start at a loss of 5.6 and have the same data. FP8's rounding is 1 % of it at most.
  const auto got = run.metrics("whole"), want = run.metrics("plain");
  REQUIRE(got.size() == want.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    CAPTURE(i);
    CHECK(got[i].at("loss") != want[i].at("loss"));
    CHECK(got[i].at("loss").get<double>() == Approx(want[i].at("loss").get<double>()).epsilon(0.01));
  }
}

TEST_CASE("resume: a run in FP8 that resumes equals an uninterrupted run bit for bit on CUDA") {
  if (skip_without_fp8()) return;
  const RunDirectory run("head64-ssa-sparse-stream", "cuda");
  make_dataset(run / "bytes", {random_documents(40, 96, 2)});
  check_halves(run, {"train.fp8=all", "train.max_length=96", "init_from=null", "model.vocab_size=257",
                     "model.eos_token_id=256", "data.path=bytes"});
}

TEST_CASE("resume: two ranks give the losses of one rank, and one rank resumes from a checkpoint of two") {
  for (const MethodCase& method : methods()) {
    const RunDirectory run(method.name);
    const Names saving =
        with(method.overrides, {"train.global_batch_size=4", "checkpoint.save_steps=4", "train.num_train_epochs=9"});
    run.train_to_end("one", saving);
    const auto one = run.metrics("one");
    REQUIRE(one.size() == 8);
    run.train_to_end("two", with(saving, {"distributed.zero_stage=1"}), {}, 2);
    INFO(method.name);
    // f32 gradients are summed in another order, and 8 updates propagate the difference.
    check_losses(run.metrics("two"), one, 1e-5);
    copy_run_at(run, "two", "then-one", 4);
    run.train_to_end("then-one", saving);
    check_losses(run.metrics("then-one"), one, 1e-5);
  }
}

TEST_CASE("resume: two ranks give the losses of one at every ZeRO stage, and resume bit for bit") {
  const RunDirectory run("ssa-sparse-stream");
  const Names saving = {"data.shuffle=true",         "attention.full_stream_probability=0.5",
                        "train.global_batch_size=4", "attention.stream_granularity=row",
                        "train.eval_steps=4",        "data.eval_path=data",
                        "checkpoint.save_steps=4"};
  run.train_to_end("one", saving);
  const auto one = run.metrics("one");
  for (const char* stage : {"0", "1", "2", "3"}) {
    INFO("zero_stage " << stage);
    const std::string output = std::string("two-") + stage, halves = output + "-halves";
    const Names staged = with(saving, {std::string("distributed.zero_stage=") + stage});
    run.train_to_end(output, staged, {}, 2);
    const auto two = run.metrics(output);
    check_losses(two, one, 1e-5);
    for (const std::size_t step : {4u, 8u})
      for (const char* key : {"eval_loss_sparse", "eval_loss_full"}) {
        const double have = two.at(step - 1).at(key), want = one.at(step - 1).at(key);
        CHECK(std::abs(have - want) <= 1e-5 * want);
      }
    if (std::string(stage) != "1") continue;
    run.train_to_end(output + "-async", with(staged, {"checkpoint.async=true", "checkpoint.save_steps=1"}), {}, 2);
    CHECK(run.metrics(output + "-async") == two);
    check_same_state(run.checkpoint(output + "-async", 8), run.checkpoint(output, 8));
    copy_run_at(run, output, halves, 4);
    run.train_to_end(halves, staged, {}, 2);
    CHECK(run.metrics(halves) == two);
    check_same_state(run.checkpoint(halves, 8), run.checkpoint(output, 8));
  }
}

TEST_CASE("resume: an exported f32 directory starts a run from the same weights") {
  const RunDirectory run("full-untied-llama3rope");
  run.train_to_end("first");
  const ProgramResult exported =
      run_program({"ssa_export", "first", "exported", "--dtype", "f32"}, {.directory = run.path()});
  INFO(exported.err);
  REQUIRE(exported.exit_code == 0);
  // The first step of a warmup has learning rate 0, so the saved weights are the initial ones.
  run.train_to_end("second", {"model=exported/config.json", "init_from=exported", "train.max_steps=1"});
  CHECK((ssa::read_file(run.checkpoint("second", 1) / "model.safetensors") ==
         ssa::read_file(run.checkpoint("first", 8) / "model.safetensors")));
  // A resumed run ignores init_from.
  const auto first = run.metrics("first");
  run.train_to_end("first", {"init_from=exported"}, {"--allow-change", "init_from"});
  CHECK(run.metrics("first") == first);
}

TEST_CASE("resume: save_steps sets the saved steps, and save_total_limit the number of checkpoints kept") {
  const RunDirectory run("full");
  run.train_to_end("limited", {"checkpoint.save_steps=1", "checkpoint.save_total_limit=2"});
  CHECK(run.checkpoints("limited") == Names{"step-00000007", "step-00000008"});
  // A complete run that is started again removes what a run killed during cleanup left.
  fs::create_directories(run.checkpoint("limited", 6).parent_path() / ".trash-step-00000006");
  run.train_to_end("limited", {"checkpoint.save_steps=1", "checkpoint.save_total_limit=1"});
  CHECK(run.checkpoints("limited") == Names{"step-00000008"});
  run.train_to_end("fraction", {"checkpoint.save_steps=0.25"});
  CHECK(run.checkpoints("fraction") == Names{"step-00000002", "step-00000004", "step-00000006", "step-00000008"});
  run.train_to_end("end", {"checkpoint.save_steps=0"});
  CHECK(run.checkpoints("end") == Names{"step-00000008"});
  run.train_to_end("end", {"checkpoint.save_steps=0"}, {"--resume", "none"});
  CHECK(run.metrics("end").size() == 8);
}

namespace {

/// Starts a run, sends it `signal` once it has logged a few steps, and checks that it stopped with a checkpoint.
/// Returns the steps done.
std::size_t stop_run(const RunDirectory& run, const std::string& output, const Names& overrides, int signal,
                     int ranks) {
  const std::size_t before = run.metrics(output).size();
  RunningProgram program(run.command(output, overrides), {.directory = run.path(), .ranks = ranks});
  while (!program.ends_within(0.002) &&
         program.out().find("\nstep " + std::to_string(before + 3) + "/") == std::string::npos) {
  }
  program.kill(signal);
  const ProgramResult result = program.wait();
  const std::size_t done = run.metrics(output).size();
  INFO("signal " << signal << " after " << done << " steps: " << result.out << result.err);
  CHECK(result.exit_code == kExitStopped);
  CHECK(done >= before + 3);
  CHECK(fs::exists(run.checkpoint(output, static_cast<int>(done)) / "manifest.json"));
  CHECK_THAT(result.out, has("stopped by signal " + std::to_string(signal) + " after step " + std::to_string(done)));
  return done;
}

}  // namespace

TEST_CASE("resume: a signal stops the run with a checkpoint and exit code 75, and it resumes bit for bit") {
  const RunDirectory run("ssa-sparse-stream");
  const Names overrides = {"data.shuffle=true", "attention.full_stream_probability=0.5", "train.max_steps=120",
                           "checkpoint.save_steps=0"};
  run.train_to_end("whole", overrides);
  const auto whole = run.metrics("whole");
  REQUIRE(whole.size() == 120);
  for (const int signal : {SIGTERM, SIGINT, SIGUSR1}) REQUIRE(stop_run(run, "stopped", overrides, signal, 1) < 120);
  run.train_to_end("stopped", overrides);
  CHECK(run.metrics("stopped") == whole);
  check_same_state(run.checkpoint("stopped", 120), run.checkpoint("whole", 120));
}

TEST_CASE("resume: a signal stops two ranks after the same step, and they resume") {
  const RunDirectory run("full");
  // More steps than any machine makes before the signal arrives.
  const Names overrides = {"train.max_steps=100000000", "checkpoint.save_steps=0", "distributed.zero_stage=1"};
  // mpirun forwards SIGUSR1 to its ranks; it handles SIGTERM itself.
  const std::size_t done = stop_run(run, "stopped", overrides, SIGUSR1, 2);
  run.train_to_end("stopped", with(overrides, {"train.max_steps=" + std::to_string(done + 5)}), {}, 2);
  CHECK(run.metrics("stopped").size() == done + 5);
}

TEST_CASE("resume: a run that saves every step and is killed at 100 random moments ends with the same weights") {
  const RunDirectory run("moba");
  const Names overrides = {"data.shuffle=true", "checkpoint.save_steps=1", "checkpoint.save_total_limit=2"};
  const ProgramResult undisturbed = run.train("whole", overrides);
  REQUIRE(undisturbed.exit_code == 0);
  const auto whole = run.metrics("whole");
  int killed = 0, killed_saving = 0, rounds = 0;
  std::uint64_t starts = 0;
  while (killed < 100) {
    const std::string output = "killed-" + std::to_string(++rounds);
    const Names saving = with(overrides, {rounds % 2 == 0 ? "checkpoint.async=true" : "checkpoint.async=false"});
    for (;;) {
      RunningProgram program(run.command(output, saving), {.directory = run.path()});
      // Kill at a random moment within 0.7 of the time of an uninterrupted run, until there were 100 kills. Every start
      // draws a new moment: on a machine that is faster now, a fixed one might always be too late.
      const double moment = random_uniform(13, RandomPurpose::test, 0, starts++);
      if (!program.ends_within(killed < 100 ? 0.005 + 0.7 * moment * undisturbed.seconds : 300)) program.kill(SIGKILL);
      const ProgramResult result = program.wait();
      INFO("round " << rounds << " after " << killed << " kills: " << result.out << result.err);
      if (result.signal == 0) {
        REQUIRE(result.exit_code == 0);
        break;
      }
      REQUIRE(result.signal == SIGKILL);
      ++killed;
      for (const std::string& name : run.checkpoints(output)) killed_saving += name.starts_with(".");
    }
    CHECK(run.metrics(output) == whole);
    CHECK(run.checkpoints(output) == Names{"step-00000007", "step-00000008"});
    check_same_state(run.checkpoint(output, 8), run.checkpoint("whole", 8));
    fs::remove_all(run / output);
  }
  INFO(killed << " kills in " << rounds << " runs, " << killed_saving << " left something half-written");
  CHECK(killed_saving > 10);  // enough kills happened during a save
}

namespace {

/// A file system of the given size that only this process and its children see.
class SmallDisk {
 public:
  SmallDisk(const fs::path& directory, const std::string& size) : directory_(directory) {
    fs::create_directories(directory);
    mounted_ = ::unshare(CLONE_NEWNS) == 0 && ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
               ::mount("tmpfs", directory.c_str(), "tmpfs", 0, ("size=" + size).c_str()) == 0;
  }
  ~SmallDisk() {
    if (mounted_) ::umount2(directory_.c_str(), MNT_DETACH);
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;

  bool mounted() const { return mounted_; }
  void grow(const std::string& size) {
    REQUIRE(::mount(nullptr, directory_.c_str(), nullptr, MS_REMOUNT, ("size=" + size).c_str()) == 0);
  }

 private:
  fs::path directory_;
  bool mounted_ = false;
};

}  // namespace

TEST_CASE("resume: a full disk ends the run with an error, and the run resumes when there is space") {
  const RunDirectory run("full");
  const Names overrides = {"checkpoint.save_steps=1"};
  run.train_to_end("whole", overrides);
  SmallDisk disk(run / "small", "3m");  // two checkpoints of 1.3 MB and a part of a third
  if (!disk.mounted()) {
    WARN("no permission to mount a file system: only the file size limit is tested");
    return;
  }
  for (const char* async : {"checkpoint.async=false", "checkpoint.async=true"}) {
    INFO(async);
    const Names both = with(overrides, {async});
    const ProgramResult full = run.train("small/run", both);
    check_fails(full, kExitFailed, {"no space left on device: ", ".tmp-step-00000003"});
    CHECK_THAT(full.out, has("saved small/run/checkpoints/step-00000002"));
    CHECK_THAT(full.out, !has("saved small/run/checkpoints/step-00000003"));
    CHECK(run.checkpoints("small/run") == Names{"step-00000001", "step-00000002"});
    disk.grow("64m");
    run.train_to_end("small/run", both);
    CHECK(run.metrics("small/run") == run.metrics("whole"));
    check_same_state(run.checkpoint("small/run", 8), run.checkpoint("whole", 8));
    fs::remove_all(run / "small/run");
    disk.grow("3m");
  }
}

TEST_CASE("resume: a file size limit ends the run with an error, and the run resumes without the limit") {
  const RunDirectory run("full");
  const Names overrides = {"checkpoint.save_steps=1"};
  run.train_to_end("whole", overrides);
  copy_run_at(run, "whole", "limited", 2);
  const ProgramResult limited = run_program(run.command("limited", overrides),
                                            {.directory = run.path(), .largest_file = 600'000});  // moments take more
  check_fails(limited, kExitFailed, {".tmp-step-00000003/optimizer.safetensors: cannot write: File too large"});
  CHECK(run.checkpoints("limited") == Names{"step-00000002"});
  run.train_to_end("limited", overrides);
  CHECK(run.metrics("limited") == run.metrics("whole"));
  check_same_state(run.checkpoint("limited", 8), run.checkpoint("whole", 8));
}

TEST_CASE("resume: a value that is not finite stops the run before the update and keeps the last checkpoint") {
  const RunDirectory run("ssa-sparse-stream");
  run.train_to_end("run", {"checkpoint.save_steps=4", "train.max_steps=4"});
  const std::string tensor = "model.layers.1.self_attn.o_proj.weight";
  const fs::path file = run / "model/model.safetensors";
  std::string bytes = ssa::read_file(file);
  std::uint64_t header = 0;
  std::memcpy(&header, bytes.data(), sizeof header);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(&bytes[sizeof header + header + SafetensorsReader(file).at(tensor).begin], &nan, sizeof nan);
  write_file(file, bytes);

  check_fails(run.train("bad"), kExitFailed, {"model: tensor " + tensor + ": element 0 is nan"});
  CHECK(run.checkpoints("bad").empty());
  CHECK(run.metrics("bad").empty());
  check_fails(run_program({"ssa_inspect", "model", "--verify"}, {.directory = run.path()}), kExitFailed,
              {"model.safetensors", tensor, "element 0 is nan"});

  // With this learning rate the weights overflow in the update of step 5, and step 6 stops.
  const ProgramResult blown = run.train("run", {"checkpoint.save_steps=4", "train.learning_rate=1e38",
                                                "train.weight_decay=10", "train.warmup_steps=0", "train.min_lr=1e38"});
  check_fails(blown, kExitFailed,
              {"step 6: ", "not finite on rank 0", "first tensor that is not finite: gradient of model.norm.weight",
               "step-00000004"});
  CHECK(run.checkpoints("run") == Names{"step-00000004"});
}
