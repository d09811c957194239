// train.offload_moments: moments in host memory, which pass through staging buffers, give the bits of moments on the
// device.
#include <stdlib.h>

#include <cstring>
#include <numeric>

#include "ssa/base/random.h"
#include "ssa/runtime/host_memory.h"
#include "ssa/train/optimizer_step.h"
#include "ssa/train/run_store.h"
#include "support/test_model.h"
#include "train/run_directory.h"

using namespace ssa;
using namespace ssa::test;

namespace {

/// Four sequences per step, in micro-batches of `rows` per rank.
Names steps(int rows, const Names& more) {
  return with({"train.global_batch_size=4", "train.per_device_train_batch_size=" + std::to_string(rows),
               "train.max_steps=4", "train.num_train_epochs=99", "checkpoint.save_steps=2", "distributed.overlap=true"},
              more);
}

Names offloaded(int rows, const Names& more) { return with(steps(rows, more), {"train.offload_moments=true"}); }

void check_same(const RunDirectory& run, const std::string& a, const std::string& b) {
  CHECK(run.metrics(a) == run.metrics(b));
  for (const int step : {2, 4}) check_same_state(run.checkpoint(a, step), run.checkpoint(b, step));
}

/// Without gradient accumulation all stages give the same bits.
void check_stages(int ranks) {
  const RunDirectory run("ssa-sparse-stream");
  run.train_to_end("device", steps(4 / ranks, {}), {}, ranks);
  for (const char* number : {"0", "1", "2", "3"}) {
    run.train_to_end(number, offloaded(4 / ranks, {std::string("distributed.zero_stage=") + number}), {}, ranks);
    check_same(run, "device", number);
  }
}

}  // namespace

TEST_CASE("offload: one rank has the bits of moments on the device, with a head of its own and bf16 moments") {
  const RunDirectory run("full-untied-llama3rope");
  for (const char* type : {"train.moments_dtype=f32", "train.moments_dtype=bf16"}) {
    const std::string device = std::string("device-") + type, host = std::string("host-") + type;
    run.train_to_end(device, steps(1, {type}));
    run.train_to_end(host, offloaded(1, {type}));
    check_same(run, device, host);
  }
}

TEST_CASE("offload: two ranks have the bits of moments on the device, at every stage") { check_stages(2); }

TEST_CASE("offload: four ranks have the bits of moments on the device, at every stage") { check_stages(4); }

TEST_CASE(
    "offload: two ranks have the same bits with accumulation, bf16 moments, without overlap and saved in parallel") {
  const RunDirectory run("ssa-sparse-stream");
  for (const char* number : {"1", "3"}) {
    const Names more = {std::string("distributed.zero_stage=") + number, "distributed.overlap=false",
                        "train.moments_dtype=bf16"};
    const std::string device = std::string("device-") + number, host = std::string("host-") + number;
    run.train_to_end(device, steps(1, more), {}, 2);
    run.train_to_end(host, with(offloaded(1, more), {"checkpoint.async=true"}), {}, 2);
    check_same(run, device, host);
  }
}

TEST_CASE("offload: a run changes the key when it resumes, in both directions") {
  const RunDirectory run("ssa-sparse-stream");
  const auto back_to_2 = [&](const std::string& output) {
    fs::copy(run / "device", run / output, fs::copy_options::recursive);
    fs::remove_all(run.checkpoint(output, 4));
  };
  run.train_to_end("device", steps(2, {"distributed.zero_stage=2"}), {}, 2);
  back_to_2("then-host");
  const ProgramResult resumed = run.train("then-host", offloaded(2, {"distributed.zero_stage=2"}), {}, 2);
  INFO(resumed.out << resumed.err);
  REQUIRE(resumed.exit_code == 0);
  CHECK_THAT(resumed.out, has("resume: train.offload_moments: false in the checkpoint, true now"));
  check_same(run, "device", "then-host");
  fs::remove_all(run.checkpoint("then-host", 4));
  run.train_to_end("then-host", steps(2, {"distributed.zero_stage=2"}), {}, 2);
  check_same(run, "device", "then-host");
}

TEST_CASE("offload: a killed run resumes to the same bits") {
  const int ranks = GENERATE(1, 2);
  const RunDirectory run("ssa-sparse-stream");
  const Names overrides = offloaded(1, {"distributed.zero_stage=3"});
  run.train_to_end("device", steps(1, {"distributed.zero_stage=3"}), {}, ranks);
  ::setenv("SSA_FAULT", "kill@step:4,rank:0,operation:2", 1);
  const ProgramResult killed = run.train("host", overrides, {}, ranks);
  ::unsetenv("SSA_FAULT");
  INFO(killed.out << killed.err);
  CHECK(killed.exit_code != 0);
  CHECK(run.checkpoints("host") == Names{"step-00000002"});
  run.train_to_end("host", overrides, {}, ranks);
  check_same(run, "device", "host");
}

TEST_CASE("offload: a step whose update is skipped leaves the moments as they are") {
  const RunDirectory run("ssa-sparse-stream");
  ::setenv("SSA_FAULT", "nan@step:3", 1);
  run.train_to_end("device", steps(4, {"train.on_spike=skip"}));
  run.train_to_end("host", offloaded(4, {"train.on_spike=skip"}));
  ::unsetenv("SSA_FAULT");
  CHECK(run.metrics("host").back().at("skipped_updates") == 1);
  check_same(run, "device", "host");
}

namespace {

/// A model whose weights are updated with random gradients.
class Updates {
 public:
  Updates(DType moments, bool offload, std::int64_t piece = 1)
      : state_(stream_,
               {.model = small_model(),
                .pass = {.rows = 1, .tokens = 4, .path = AttentionPath::full},
                .moments_dtype = moments,
                .offload_moments = offload,
                .moments_piece = piece},
               table_),
        moments_(stream_, state_) {
    load_master_weights(stream_, state_, [&](std::size_t i, std::span<float> out, std::int64_t first) {
      initialize_param(table_, state_.shape().model, i, 1, out, first);
    });
  }

  void step(std::int64_t number) {
    auto* gradients = state_.gradients.as<float>();
    for (std::int64_t i = 0; i < state_.gradients.count(); ++i)
      gradients[i] = static_cast<float>(
          random_normal(2, RandomPurpose::test, static_cast<std::uint64_t>(number), static_cast<std::uint64_t>(i)));
    update_weights(stream_, exchange_, moments_, state_, {}, 1e-2, 0.5, number);
  }
  MomentStaging& moments() { return moments_; }
  const ModelState& state() const { return state_; }

 private:
  Stream stream_{DeviceKind::cpu};
  SingleComm comm_;
  ParamTable table_{small_model()};
  ModelState state_;
  RankGroups groups_{comm_, 0};
  StepExchange exchange_{stream_, groups_, state_, false};
  MomentStaging moments_;
};

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.bytes() == b.bytes() && std::memcmp(a.data(), b.data(), a.bytes()) == 0;
}

}  // namespace

TEST_CASE("offload: buckets that are updated in pieces have the bits of buckets updated as a whole") {
  const DType type = GENERATE(DType::f32, DType::bf16);
  const std::int64_t piece = GENERATE(128, 256, 384, 1 << 20);
  INFO(name_of(type) << ", pieces of " << piece);
  Updates device(type, false), host(type, true, piece);
  CHECK(device.moments().pieces().size() == device.state().table().buckets().size());
  CHECK((host.moments().pieces().size() > device.moments().pieces().size()) == (piece < 1000));
  for (const std::int64_t number : {1, 2, 3}) {
    device.step(number);
    if (number != 2) host.moments().prefetch();  // during a backward pass
    host.step(number);
  }
  host.moments().prefetch();  // of a step whose update does not take place
  host.moments().finish();
  CHECK(same_bits(host.state().m, device.state().m));
  CHECK(same_bits(host.state().v, device.state().v));
  CHECK(same_bits(host.state().weights, device.state().weights));
}

TEST_CASE("offload: a piece that was not copied to the device is not fetched") {
  Updates host(DType::f32, true, 128);
  CHECK_THROWS_WITH(host.moments().fetch(0), has("moments: piece 0 is fetched, 0 were copied"));
}

namespace {

StateShape gpu_shape(bool offload) {
  ModelConfig model = small_model();
  model.head_dim = 64;
  model.block_size = 16;
  return {.model = model,
          .pass = {.rows = 1, .tokens = 64, .path = AttentionPath::full},
          .kind = DeviceKind::cuda,
          .ranks = 4,
          .zero_stage = 1,
          .offload_moments = offload,
          .moments_piece = 256};
}

}  // namespace

TEST_CASE("offload: the memory plan has the moments on the host, and three pieces of them on the device") {
  const StateShape on_device = gpu_shape(false), on_host = gpu_shape(true);
  const ParamTable table(on_device.model, 4);
  const MemoryPlan before = plan_memory(on_device, table), after = plan_memory(on_host, table);
  const auto moments = static_cast<std::size_t>(2 * 4 * table.size() / 4), staging = std::size_t{3 * 2 * 4 * 256};
  CHECK(before.host.bytes == 0);
  CHECK(after.host.bytes == moments);
  CHECK(after.total() == before.total() - moments + staging);
  CHECK_THAT(after.to_string(), has("pinned host memory, in addition"));
  CHECK_THAT(before.to_string(), !has("pinned host memory, in addition"));

  // On the CPU it is one memory.
  StateShape cpu_device = on_device, cpu_host = on_host;
  cpu_device.kind = cpu_host.kind = DeviceKind::cpu;
  CHECK(plan_memory(cpu_host, table).host.bytes == 0);
  CHECK(plan_memory(cpu_host, table).total() == plan_memory(cpu_device, table).total() + staging);
}

TEST_CASE("offload: when memory is short, the message says what would help") {
  const StateShape on_device = gpu_shape(false), on_host = gpu_shape(true);
  const ParamTable table(on_device.model, 4);
  // One sequence fits with offloaded moments, and none without.
  const std::size_t bytes = plan_memory(on_host, table).total();
  CHECK_THAT(memory_advice(on_device, table, bytes), has("largest per_device_train_batch_size that fits: 0") &&
                                                         has(", with distributed.zero_stage=2: ") &&
                                                         has(", with train.offload_moments=true: 1"));
  CHECK_THAT(memory_advice(on_host, table, bytes), !has("offload_moments"));
  StateShape cpu = on_device;
  cpu.kind = DeviceKind::cpu;
  CHECK_THAT(memory_advice(cpu, table, bytes), !has("offload_moments"));

  const MemoryPlan plan = plan_memory(on_host, table);
  const std::string each = std::to_string(plan.host.bytes), both = std::to_string(2 * plan.host.bytes);
  CHECK(why_no_host_memory(plan, 2, 2 * plan.host.bytes).empty());
  CHECK(why_no_host_memory(plan, 2, plan.host.bytes) ==
        "out of host memory: train.offload_moments=true needs " + both +
            " bytes of pinned memory for the 2 ranks on this machine, " + each + " are free");
  CHECK(why_no_host_memory(plan_memory(on_device, table), 2, 0).empty());
}

TEST_CASE("host memory: of the machine, or of the container where its limit leaves less") {
  constexpr std::size_t kMachine = 1000 << 10, kFree = 800 << 10;
  const TempDir directory;
  const auto write = [&](const std::string& name, const std::string& text) {
    fs::create_directories((directory / name).parent_path());
    write_file(directory / name, text);
  };
  const auto expect = [&](std::size_t free, std::size_t total) {
    const MemoryInfo info = host_memory_info(
        {.meminfo = directory / "meminfo", .own_groups = directory / "own", .groups = directory / "groups"});
    CHECK(info.free_bytes == free);
    CHECK(info.total_bytes == total);
  };
  write("meminfo", "MemTotal:     1000 kB\nMemFree:       10 kB\nMemAvailable:  800 kB\n");
  expect(kFree, kMachine);

  // Version 2: a group without a limit in one with a limit. Its page cache can be given back.
  write("own", "0::/job/step\n");
  write("groups/job/step/memory.max", "max\n");
  write("groups/job/step/memory.current", "5000\n");
  expect(kFree, kMachine);
  write("groups/job/memory.max", "100000\n");
  write("groups/job/memory.current", "60000\n");
  expect(40000, 100000);
  write("groups/job/memory.stat", "anon 30000\ninactive_file 20000\nactive_file 7000\nslab_reclaimable 500\n");
  expect(67500, 100000);
  write("groups/job/step/memory.max", "30000\n");
  expect(25000, 30000);
  write("groups/job/step/memory.max", "4000\n");  // lowered below what is used
  expect(0, 4000);
  write("groups/job/step/memory.max", "max\n");
  write("groups/job/memory.max", std::to_string(2 * kMachine) + "\n");
  expect(kFree, kMachine);
  // Inside of a container, the root is the container's own group, whatever its path outside.
  fs::remove_all(directory / "groups");
  write("groups/memory.max", "90000\n");
  write("groups/memory.current", "10000\n");
  for (const char* own : {"0::/\n", "0::/docker/0123\n", "0::/../other\n"}) {
    write("own", own);
    expect(80000, 90000);
  }

  // Version 1, next to controllers without memory.
  fs::remove_all(directory / "groups");
  write("own", "12:cpuset:/docker/0123\n9:cpu,memory:/docker/0123\n1:name=systemd:/docker/0123\n0::/\n");
  write("groups/memory/docker/0123/memory.limit_in_bytes", "9223372036854771712\n");  // none
  write("groups/memory/docker/0123/memory.usage_in_bytes", "50000\n");
  expect(kFree, kMachine);
  write("groups/memory/docker/0123/memory.limit_in_bytes", "70000\n");
  write("groups/memory/docker/0123/memory.stat", "inactive_file 1\ntotal_inactive_file 4000\ntotal_active_file 600\n");
  expect(24600, 70000);
}

TEST_CASE("host memory: a checkpoint that does not fit is refused with what would help") {
  CHECK(why_no_checkpoint_copy(1000, 1, true, 1000).empty());
  CHECK(
      why_no_checkpoint_copy(1001, 1, true, 1000) ==
      "out of host memory: a checkpoint needs 1001 bytes of pinned memory, 1000 are free; checkpoint.async=false needs "
      "less");
  CHECK(why_no_checkpoint_copy(1001, 1, false, 1000) ==
        "out of host memory: a checkpoint needs 1001 bytes of pinned memory, 1000 are free");
  // The ranks of a machine share its memory.
  CHECK(why_no_checkpoint_copy(125, 8, true, 1000).empty());
  CHECK(
      why_no_checkpoint_copy(126, 8, false, 1000) ==
      "out of host memory: a checkpoint needs 1008 bytes of pinned memory for 8 ranks on this machine, 1000 are free");
}

TEST_CASE(
    "host memory: by default, checkpoints are written while training continues if half of it has room for the copy") {
  CHECK(why_not_async(1000, 1, 2000, true).empty());
  CHECK(why_not_async(125, 8, 2000, true).empty());
  CHECK(why_not_async(std::size_t{15} << 30, 2, std::size_t{40} << 30, true) ==
        "their copy takes 32.2 GB of host memory on a machine, of which 42.9 GB are free");
  CHECK(why_not_async(1000, 1, 2000, false) == "MPI takes no calls from two threads");
}

TEST_CASE("offload: the dry run states the pinned host memory of a GPU") {
  const RunDirectory run("head64-full", "cuda");
  const auto plan = [&](const std::string& value) {
    const ProgramResult result = run.train("out", {"train.offload_moments=" + value}, {"--dry-run"});
    INFO(result.out << result.err);
    CHECK(result.exit_code == 0);
    return result.out;
  };
  CHECK_THAT(plan("true"), has("pinned host memory, in addition") && has("staging of moments"));
  CHECK_THAT(plan("false"), !has("pinned host memory, in addition"));
}
