// Checkpoints that are written while training continues have the state of their step, whatever the update after it
// does.
#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include "ssa/config/config.h"
#include "ssa/train/state_snapshot.h"
#include "support/skip.h"
#include "support/test_model.h"
#include "train/run_directory.h"

using namespace ssa;
using namespace ssa::test;

namespace {

/// Random weights and moments, and a copy of them.
struct SnapshotCase {
  SnapshotCase(const ModelConfig& model, DeviceKind kind, DType moments)
      : stream(kind),
        table(model),
        state(stream,
              {.model = model,
               .pass = {.rows = 1, .tokens = 16, .path = AttentionPath::full},
               .kind = kind,
               .moments_dtype = moments,
               .async_checkpoints = true},
              table),
        snapshot(stream, state) {
    load_master_weights(stream, state, [&](std::size_t i, std::span<float> out, std::int64_t first) {
      initialize_param(table, model, i, 1, out, first);
    });
    for (const Tensor& tensor : tensors()) {
      std::vector<std::uint8_t> bytes(tensor.bytes());
      if (tensor.data() == master().data())
        stream.copy(bytes.data(), tensor.data(), bytes.size());
      else
        for (std::size_t i = 0; i < bytes.size(); ++i)
          bytes[i] = static_cast<std::uint8_t>(random_bits(2, RandomPurpose::test, 0, i));
      stream.copy(tensor.data(), bytes.data(), bytes.size());
      stream.synchronize();
      before.push_back(std::move(bytes));
    }
  }

  std::size_t buckets() const { return table.buckets().size(); }
  Tensor master() const { return state.master ? state.master : state.weights; }
  std::vector<Tensor> tensors() const { return {master(), state.m, state.v}; }
  void update() {
    for (const Tensor& tensor : tensors()) stream.zero(tensor);
  }
  /// Checks that the snapshot has the state before the update.
  void check() {
    for (std::size_t i = 0; i < buckets(); ++i) {
      const StateSnapshot::Part& part = snapshot.wait(i);
      const Range range = table.buckets()[i].range;
      const std::vector<Tensor> got = {part.master, part.m, part.v};
      for (std::size_t k = 0; k < got.size(); ++k) {
        INFO("bucket " << i << ", tensor " << k);
        const std::size_t begin = static_cast<std::size_t>(range.begin) * size_of(got[k].dtype());
        REQUIRE(got[k].count() == range.count());
        CHECK(std::memcmp(got[k].data(), before[k].data() + begin, got[k].bytes()) == 0);
      }
    }
  }

  Stream stream;
  ParamTable table;
  ModelState state;
  StateSnapshot snapshot;
  std::vector<std::vector<std::uint8_t>> before;
};

}  // namespace

TEST_CASE("save: an update waits until the state before it is copied") {
  const DType moments = GENERATE(DType::f32, DType::bf16);
  SnapshotCase c(small_model(), DeviceKind::cpu, moments);
  for (int save = 0; save < 2; ++save) {
    for (std::size_t i = 0; i < c.buckets(); ++i) c.snapshot.queue(i);
    CHECK(c.snapshot.stall_seconds() == 0);
    std::atomic<bool> copied = false;
    std::thread writer([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      for (std::size_t i = 0; i < c.buckets(); ++i) c.snapshot.copy_host(i);
      copied = true;
      c.snapshot.host_is_copied();
    });
    c.snapshot.release();
    CHECK(copied);
    CHECK(c.snapshot.stall_seconds() > 0.02);
    if (save == 1) c.update();
    writer.join();
    c.check();
    c.snapshot.finish();
  }
  c.snapshot.release();  // nothing is being copied
}

TEST_CASE("save: an update waits until the state before it is copied, on CUDA") {
  if (skip_without_gpu()) return;
  ModelConfig model = small_model(400'000);  // 150 MB: the update would take a small part of the time of the copy
  model.head_dim = 64;
  model.block_size = 16;
  SnapshotCase c(model, DeviceKind::cuda, DType::f32);
  for (std::size_t i = 0; i < c.buckets(); ++i) c.snapshot.queue(i);
  for (std::size_t i = 0; i < c.buckets(); ++i) c.snapshot.copy_host(i);
  c.snapshot.host_is_copied();
  c.snapshot.release();
  c.update();
  c.check();
}

TEST_CASE("save: checkpoints of every step have the same bits with and without async, at every stage") {
  const RunDirectory run("ssa-sparse-stream");
  const auto steps = [](const Names& more) {
    return with({"train.global_batch_size=4", "train.per_device_train_batch_size=2", "train.max_steps=4",
                 "train.num_train_epochs=99", "checkpoint.save_steps=1"},
                more);
  };
  run.train_to_end("whole", steps({}), {}, 2);
  const std::vector<Names> others = {
      {"distributed.zero_stage=2", "distributed.overlap=true"},
      {"checkpoint.async=true"},
      {"checkpoint.async=true", "distributed.zero_stage=1", "distributed.overlap=true"},
      {"checkpoint.async=true", "distributed.zero_stage=2"},
      {"checkpoint.async=true", "distributed.zero_stage=3", "train.offload_moments=true"},
  };
  for (std::size_t i = 0; i < others.size(); ++i) {
    INFO("settings " << i);
    const std::string output = "other-" + std::to_string(i);
    // The second save comes long before the first is written. The first sync of a save is that of metrics.jsonl.
    ::setenv("SSA_FAULT", "slow@save:1,operation:2,seconds:0.5", 1);
    const ProgramResult result = run.train(output, steps(others[i]), {}, 2);
    ::unsetenv("SSA_FAULT");
    INFO(result.out << result.err);
    REQUIRE(result.exit_code == 0);
    CHECK_THAT(result.out, has("step-00000001: training paused") && has(" GB/s)"));
    if (others[i].front() == "checkpoint.async=true")
      CHECK_THAT(result.out, has(" until the checkpoint before was written)"));
    CHECK(run.metrics(output) == run.metrics("whole"));
    for (const int step : {1, 2, 3, 4}) check_same_state(run.checkpoint(output, step), run.checkpoint("whole", step));
  }
}

namespace {

/// Four steps of a model with 3.2 million elements in the bucket of its embedding.
Names steps_of_large_model(const RunDirectory& run, const Names& more) {
  std::string text = ssa::read_file(run / "model/config.json");
  const std::string vocabulary = "\"vocab_size\": 272";
  REQUIRE(text.find(vocabulary) != std::string::npos);
  text.replace(text.find(vocabulary), vocabulary.size(), "\"vocab_size\": 50000");
  std::ofstream(run / "large.json") << text;
  return with({"model=large.json", "init_from=null", "train.max_length=4", "train.per_device_train_batch_size=1",
               "train.max_steps=4", "train.num_train_epochs=99", "checkpoint.save_steps=1"},
              more);
}

}  // namespace

TEST_CASE("save: parameters that are written and sent in pieces are whole in the checkpoint") {
  const RunDirectory run("full");
  const Names steps = steps_of_large_model(run, {"checkpoint.save_steps=2"});
  run.train_to_end("whole", steps, {}, 2);
  run.train_to_end("sent", with(steps, {"distributed.zero_stage=1", "checkpoint.async=true"}), {}, 2);
  run.train_to_end("resumed", steps, {"--resume", run.checkpoint("sent", 2).string()}, 2);
  check_same_state(run.checkpoint("sent", 2), run.checkpoint("whole", 2));
  check_same_state(run.checkpoint("resumed", 4), run.checkpoint("whole", 4));
}

TEST_CASE("save: a full disk ends a job in which another rank has an error, whatever it still has to send") {
  const RunDirectory run("full");
  const Names steps = steps_of_large_model(
      run, {"distributed.zero_stage=1", "checkpoint.async=true", "distributed.save_timeout_seconds=60"});
  // Before the pieces of rank 1 are received: its thread waits to send them.
  ::setenv("SSA_FAULT", "enospc@save:1,operation:2; read@step:2,rank:1", 1);
  const ProgramResult result = run.train("out", steps, {}, 2);
  ::unsetenv("SSA_FAULT");
  INFO(result.out << result.err);
  CHECK(result.exit_code == 1);
  CHECK(result.seconds < 30);  // not the time-out of a save
  // Rank 0 may see it before rank 1 has its own error.
  CHECK_THAT(result.err, has("no space left on device: out/checkpoints/"));
}

TEST_CASE("save: a run whose steps take less time than the copy of its state waits for it") {
  const RunDirectory run("full");
  run.train_to_end("whole", steps_of_large_model(run, {}));
  run.train_to_end("copied", steps_of_large_model(run, {"checkpoint.async=true"}));
  for (const int step : {1, 2, 3, 4}) check_same_state(run.checkpoint("copied", step), run.checkpoint("whole", step));
}

TEST_CASE("save: with shard_size the ranks that share a state with rank 0 send it") {
  const RunDirectory run("full");
  const Names steps = {"train.global_batch_size=4", "train.per_device_train_batch_size=1",
                       "train.max_steps=3",         "train.num_train_epochs=99",
                       "checkpoint.save_steps=1",   "distributed.shard_size=2"};
  run.train_to_end("whole", steps, {}, 4);
  run.train_to_end("groups", with(steps, {"checkpoint.async=true", "distributed.zero_stage=3"}), {}, 4);
  for (const int step : {1, 2, 3}) check_same_state(run.checkpoint("groups", step), run.checkpoint("whole", step));
}

TEST_CASE("save: the dry run states the host memory that a checkpoint takes") {
  const RunDirectory run("head64-full", "cuda");
  const auto plan = [&](const std::string& async) {
    const ProgramResult result = run.train("out", {"checkpoint.async=" + async}, {"--dry-run"});
    INFO(result.out << result.err);
    REQUIRE(result.exit_code == 0);
    const std::string name = "pinned host memory, checkpoints";
    const std::size_t at = result.out.find(name);
    REQUIRE(at != std::string::npos);
    return std::stoll(result.out.substr(at + name.size()));
  };
  const ParamTable table(load_config(run / "config.json", {"model=" + (run / "model/config.json").string()}).model);
  CHECK(plan("true") == 12 * table.size());
  CHECK(plan("null") == 12 * table.size());  // the default on a GPU
  std::int64_t largest = 0;
  for (const Bucket& bucket : table.buckets()) largest = std::max(largest, bucket.range.count());
  CHECK(plan("false") == 12 * largest);
}
