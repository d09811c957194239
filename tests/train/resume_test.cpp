// A run that was cut anywhere and gone on with is the run that never stopped: ssa_train as a program, on one rank and
// on two, stopped by signals, kills and full disks.
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
#include "support/skip.h"
#include "train/run_directory.h"

using namespace ssa;
using namespace ssa::test;

namespace {

struct MethodCase {
  const char* name;       ///< of the golden case
  const char* cuda_name;  ///< of one that the CUDA kernels serve
  Names overrides;        ///< all that draws at random is on
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

Names with(Names overrides, const Names& more) {
  overrides.insert(overrides.end(), more.begin(), more.end());
  return overrides;
}

/// Losses of step after step within a tolerance.
void check_losses(const std::vector<nlohmann::json>& got, const std::vector<nlohmann::json>& want, double tolerance) {
  REQUIRE(got.size() == want.size());
  for (std::size_t i = 0; i < got.size(); ++i)
    for (const char* key : {"loss", "ce_loss", "alignment_loss", "grad_norm"}) {
      const double have = got[i].at(key), expected = want[i].at(key);
      INFO("step " << i + 1 << ", " << key << ": " << have << ", expected " << expected);
      CHECK(std::abs(have - expected) <= tolerance * std::abs(expected));
    }
}

/// A copy of a run as it was when it had just saved step `step`, one step of `kept` further on in metrics.jsonl.
void copy_run_at(const RunDirectory& run, const std::string& from, const std::string& to, int step) {
  fs::copy(run / from, run / to, fs::copy_options::recursive);
  for (const std::string& name : run.checkpoints(to))
    if (run / to / "checkpoints" / name != run.checkpoint(to, step)) fs::remove_all(run / to / "checkpoints" / name);
}

/// 8 steps at once, and as 4 and 4 more.
void check_halves(const RunDirectory& run, const Names& overrides) {
  const Names saving = with(overrides, {"checkpoint.save_steps=4"});
  run.train_to_end("whole", saving);
  REQUIRE(run.checkpoints("whole") == Names{"step-00000004", "step-00000008"});
  const auto whole = run.metrics("whole");
  REQUIRE(whole.size() == 8);

  // Found by itself; the lines of steps 5 to 8 are in the way.
  copy_run_at(run, "whole", "halves", 4);
  run.train_to_end("halves", saving);
  CHECK(run.metrics("halves") == whole);
  check_same_state(run.checkpoint("halves", 8), run.checkpoint("whole", 8));

  // Named, into another directory, and written on another thread.
  run.train_to_end("named", with(saving, {"checkpoint.async=true"}), {"--resume", run.checkpoint("whole", 4).string()});
  check_same_state(run.checkpoint("named", 8), run.checkpoint("whole", 8));
}

}  // namespace

TEST_CASE("resume: 8 steps are 4 and 4 more, to the bit, for every method") {
  for (const MethodCase& method : methods()) {
    INFO(method.name);
    check_halves(RunDirectory(method.name), method.overrides);
  }
}

TEST_CASE("resume: 8 steps are 4 and 4 more, to the bit, for every method on CUDA") {
  if (skip_without_gpu()) return;
  for (const MethodCase& method : methods()) {
    INFO(method.cuda_name);
    check_halves(RunDirectory(method.cuda_name, "cuda"), method.overrides);
  }
}

TEST_CASE("resume: two ranks train as one, and one rank continues from the checkpoint of two") {
  for (const MethodCase& method : methods()) {
    const RunDirectory run(method.name);
    const Names saving =
        with(method.overrides, {"train.global_batch_size=4", "checkpoint.save_steps=4", "train.num_train_epochs=9"});
    run.train_to_end("one", saving);
    const auto one = run.metrics("one");
    REQUIRE(one.size() == 8);
    run.train_to_end("two", with(saving, {"distributed.zero_stage=1"}), {}, 2);
    INFO(method.name);
    // f32 gradients summed in another order; 8 updates carry the difference on.
    check_losses(run.metrics("two"), one, 1e-5);
    copy_run_at(run, "two", "then-one", 4);
    run.train_to_end("then-one", saving);
    check_losses(run.metrics("then-one"), one, 1e-5);
  }
}

TEST_CASE("resume: two ranks at every ZeRO stage, their streams drawn by row, resume to the bit") {
  const RunDirectory run("ssa-sparse-stream");
  const Names saving = {"data.shuffle=true",         "attention.full_stream_probability=0.5",
                        "train.global_batch_size=4", "attention.stream_granularity=row",
                        "train.eval_steps=4",        "data.eval_path=data",
                        "checkpoint.save_steps=4"};
  run.train_to_end("one", saving);
  const auto one = run.metrics("one");
  for (const char* stage : {"0", "1", "2"}) {
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
  // The first step of a warm-up has rate 0: what it saves is what it started from.
  run.train_to_end("second", {"model=exported/config.json", "init_from=exported", "train.max_steps=1"});
  CHECK((ssa::test::read_file(run.checkpoint("second", 1) / "model.safetensors") ==
         ssa::test::read_file(run.checkpoint("first", 8) / "model.safetensors")));
  // And a resumed run does not start from them.
  const auto first = run.metrics("first");
  run.train_to_end("first", {"init_from=exported"});
  CHECK(run.metrics("first") == first);
}

TEST_CASE("resume: only save_total_limit checkpoints stay") {
  const RunDirectory run("full");
  run.train_to_end("limited", {"checkpoint.save_steps=1", "checkpoint.save_total_limit=2"});
  CHECK(run.checkpoints("limited") == Names{"step-00000007", "step-00000008"});
  // A run that has come to its end clears up all the same what one killed while clearing up left.
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

TEST_CASE("resume: a signal stops the run with a checkpoint and exit code 75, and nothing is lost") {
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

TEST_CASE("resume: two ranks stop together") {
  const RunDirectory run("full");
  const Names overrides = {"train.max_steps=200", "checkpoint.save_steps=0", "distributed.zero_stage=1"};
  // mpirun hands this one on to its ranks and takes SIGTERM for itself.
  REQUIRE(stop_run(run, "stopped", overrides, SIGUSR1, 2) < 200);
  run.train_to_end("stopped", with(overrides, {"train.max_steps=200"}), {}, 2);
  CHECK(run.metrics("stopped").size() == 200);
}

TEST_CASE("resume: killed at 100 random moments while saving every step, it ends with the same weights") {
  const RunDirectory run("moba");
  const Names overrides = {"data.shuffle=true", "checkpoint.save_steps=1", "checkpoint.save_total_limit=2"};
  const ProgramResult undisturbed = run.train("whole", overrides);
  REQUIRE(undisturbed.exit_code == 0);
  const auto whole = run.metrics("whole");
  int killed = 0, killed_saving = 0, rounds = 0;
  std::uint64_t starts = 0;
  while (killed < 100) {
    const std::string output = "killed-" + std::to_string(++rounds);
    for (;;) {
      RunningProgram program(run.command(output, overrides), {.directory = run.path()});
      // From the start to well into what an undisturbed run takes: what is left of a resumed one is shorter. Once there
      // were enough, never. Another moment for each start: one that is too late, because the undisturbed run had a
      // slower machine, would stay so.
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
  CHECK(killed_saving > 10);  // else the moments miss what they are for
}

namespace {

/// A file system of `bytes` that only this process and its children see.
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

TEST_CASE("resume: a full disk ends the run with its name, and the run continues when there is space") {
  const RunDirectory run("full");
  const Names overrides = {"checkpoint.save_steps=1"};
  run.train_to_end("whole", overrides);
  SmallDisk disk(run / "small", "3m");  // two checkpoints of 1.3 MB and a part of a third
  if (!disk.mounted()) {
    WARN("this machine lets the test mount nothing: only the file size limit is tested");
    return;
  }
  for (const char* async : {"checkpoint.async=false", "checkpoint.async=true"}) {
    INFO(async);
    const Names both = with(overrides, {async});
    check_fails(run.train("small/run", both), kExitFailed, {"no space left on device: ", ".tmp-step-00000003"});
    CHECK(run.checkpoints("small/run") == Names{"step-00000001", "step-00000002"});
    disk.grow("64m");
    run.train_to_end("small/run", both);
    CHECK(run.metrics("small/run") == run.metrics("whole"));
    check_same_state(run.checkpoint("small/run", 8), run.checkpoint("whole", 8));
    fs::remove_all(run / "small/run");
    disk.grow("3m");
  }
}

TEST_CASE("resume: a limit on the size of files ends the run as a full disk does") {
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
  std::string bytes = ssa::test::read_file(file);
  std::uint64_t header = 0;
  std::memcpy(&header, bytes.data(), sizeof header);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(&bytes[sizeof header + header + SafetensorsReader(file).at(tensor).begin], &nan, sizeof nan);
  write_file(file, bytes);

  check_fails(run.train("bad"), kExitFailed,
              {"step 1: ", "not finite on rank 0", "first tensor with a bad gradient: model.norm.weight",
               "the last checkpoint is none"});
  CHECK(run.checkpoints("bad").empty());
  CHECK(run.metrics("bad").empty());
  check_fails(run_program({"ssa_inspect", "model", "--verify"}, {.directory = run.path()}), kExitFailed,
              {"model.safetensors", tensor, "element 0 is nan"});

  // A rate beyond all bounds: the weights overflow in the update of step 5, and step 6 stops.
  const ProgramResult blown = run.train("run", {"checkpoint.save_steps=4", "train.learning_rate=1e38",
                                                "train.weight_decay=10", "train.warmup_steps=0", "train.min_lr=1e38"});
  check_fails(blown, kExitFailed, {"step 6: ", "not finite on rank 0", "step-00000004"});
  CHECK(run.checkpoints("run") == Names{"step-00000004"});
}
