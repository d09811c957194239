// distributed.zero_stage, overlap and reduce_dtype: what the ranks share changes neither losses nor, where sums have
// one order, a bit.
#include <signal.h>

#include <cmath>
#include <cstdlib>

#include "ssa/train/model_state.h"
#include "ssa/train/run_plan.h"
#include "support/make_dataset.h"
#include "support/test_model.h"
#include "train/run_directory.h"

using namespace ssa;
using namespace ssa::test;

namespace {

constexpr int kSteps = 6;

/// Eight sequences per step in micro-batches of `rows` per rank; with overlap, unless `more` says otherwise.
Names with(int rows, const Names& more) {
  Names all = {"train.global_batch_size=8", "train.per_device_train_batch_size=" + std::to_string(rows),
               "train.max_steps=6",         "train.num_train_epochs=99",
               "checkpoint.save_steps=3",   "data.shuffle=true",
               "train.eval_steps=3",        "data.eval_path=data",
               "distributed.overlap=true"};
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

Names stage(int number) { return {"distributed.zero_stage=" + std::to_string(number)}; }

/// f32 gradients are summed in another order, and the updates propagate the difference.
constexpr double kTolerance = 1e-5;

void check_losses(const RunDirectory& run, const std::string& output, double tolerance = kTolerance) {
  const auto lines = run.metrics(output), expected = run.metrics("one");
  REQUIRE(lines.size() == expected.size());
  for (std::size_t i = 0; i < lines.size(); ++i)
    for (const char* key : {"loss", "grad_norm"}) {
      const double have = lines[i].at(key), want = expected[i].at(key);
      INFO(output << ", step " << i + 1 << ", " << key);
      CHECK(std::abs(have - want) <= tolerance * std::abs(want));
    }
}

void check_same(const RunDirectory& run, const std::string& a, const std::string& b) {
  CHECK(run.metrics(a) == run.metrics(b));
  check_same_state(run.checkpoint(a, kSteps), run.checkpoint(b, kSteps));
}

/// With gradient accumulation.
void check_stages(int ranks) {
  const RunDirectory run("ssa-sparse-stream");
  run.train_to_end("one", with(8, {}));
  for (const int number : {0, 1, 2, 3}) {
    const std::string output = "stage-" + std::to_string(number);
    run.train_to_end(output, with(1, stage(number)), {}, ranks);
    check_losses(run, output);
  }
  check_same(run, "stage-0", "stage-1");
  check_same(run, "stage-2", "stage-3");
}

}  // namespace

TEST_CASE("zero: every stage on two ranks gives the losses of one rank") { check_stages(2); }

TEST_CASE("zero: every stage on four ranks gives the losses of one rank") { check_stages(4); }

TEST_CASE("zero: one rank ignores the stage") {
  const RunDirectory run("full");
  run.train_to_end("stage-0", with(4, stage(0)));
  for (const int number : {2, 3}) {
    const std::string output = "stage-" + std::to_string(number);
    run.train_to_end(output, with(4, stage(number)));
    check_same(run, "stage-0", output);
  }
}

TEST_CASE("zero: without accumulation all stages give the same bits, with overlap or without") {
  const RunDirectory run("full-untied-llama3rope");
  run.train_to_end("0", with(2, {"distributed.zero_stage=0"}), {}, 4);
  run.train_to_end("1", with(2, {"distributed.zero_stage=1", "distributed.overlap=false"}), {}, 4);
  check_same(run, "0", "1");
  for (const std::string number : {"2", "3"}) {
    run.train_to_end(number, with(2, {"distributed.zero_stage=" + number}), {}, 4);
    check_same(run, "0", number);
  }
}

TEST_CASE("zero: at stage 3 layers that share memory are gathered again for the backward pass") {
  // With an LM head of its own, and without; with more layers than buffers for their weights and gradients.
  for (const auto& each : {std::pair("full-untied-llama3rope", "none"), {"ssa-sparse-stream", "full"}}) {
    const char *const name = each.first, *const recomputed = each.second;
    INFO(name);
    const RunDirectory run(name);
    const auto train = [&](const std::string& output, const Names& more) {
      Names all = {"model.num_hidden_layers=5", "init_from=null",
                   std::string("train.gradient_checkpointing=") + recomputed};
      all.insert(all.end(), more.begin(), more.end());
      run.train_to_end(output, with(2, all), {}, 2);
    };
    train("2", stage(2));
    train("3", stage(3));
    check_same(run, "2", "3");
    if (std::string(recomputed) == "full") continue;
    train("plain", {"distributed.zero_stage=3", "distributed.overlap=false"});
    check_same(run, "2", "plain");
  }
}

TEST_CASE("zero: at stage 3 ranks without a sequence to evaluate gather weights with the others") {
  const RunDirectory run("ssa-sparse-stream");
  make_dataset(run / "held-out", {random_documents(3, 32, 1, 257)}, {.vocab_size = 272, .eos_token_id = 257});
  const auto at = [](int number) {
    Names all = stage(number);
    all.insert(all.end(), {"train.max_steps=1", "train.eval_steps=1", "data.eval_path=held-out",
                           "train.per_device_train_batch_size=1", "train.gradient_accumulation_steps=1"});
    return all;
  };
  for (const int number : {2, 3}) run.train_to_end(std::to_string(number), at(number), {}, 4);
  CHECK(run.metrics("3") == run.metrics("2"));
}

TEST_CASE("zero: with accumulation, overlap changes no bit") {
  const RunDirectory run("ssa-sparse-stream");
  for (const char* number : {"0", "2"}) {
    const std::string key = std::string("distributed.zero_stage=") + number, a = std::string("with-") + number,
                      b = std::string("without-") + number;
    run.train_to_end(a, with(1, {key}), {}, 2);
    run.train_to_end(b, with(1, {key, "distributed.overlap=false"}), {}, 2);
    check_same(run, a, b);
  }
}

TEST_CASE("zero: with reduce_dtype bf16 all stages give the same bits, and losses near those of f32") {
  const RunDirectory run("ssa-sparse-stream");
  run.train_to_end("one", with(8, {}));
  for (const char* number : {"0", "1", "2", "3"})
    run.train_to_end(
        number, with(4, {std::string("distributed.zero_stage=") + number, "distributed.reduce_dtype=bf16"}), {}, 2);
  check_same(run, "0", "1");
  check_same(run, "0", "2");
  check_same(run, "0", "3");
  // A gradient is rounded by at most 2^-9 of itself, twice. AdamW divides it by a mean of its size.
  check_losses(run, "2", 5e-3);
  CHECK(run.metrics("2").back().at("loss") != run.metrics("one").back().at("loss"));
}

TEST_CASE("zero: a run resumes at another stage and on another number of ranks") {
  const RunDirectory run("ssa-sparse-stream");
  run.train_to_end("one", with(8, {}));
  run.train_to_end("four", with(1, stage(2)), {}, 4);
  // The same number of ranks: the same bits.
  const auto back_to_3 = [&](const std::string& output) {
    fs::copy(run / "four", run / output, fs::copy_options::recursive);
    fs::remove_all(run.checkpoint(output, kSteps));
  };
  back_to_3("four-again");
  run.train_to_end("four-again", with(1, stage(2)), {}, 4);
  check_same(run, "four-again", "four");
  back_to_3("one-then");
  run.train_to_end("one-then", with(8, {}));
  check_losses(run, "one-then");
  back_to_3("two-then");
  run.train_to_end("two-then", with(2, stage(1)), {}, 2);
  check_losses(run, "two-then");
  // Up: from one rank without a stage.
  fs::remove_all(run.checkpoint("one-then", kSteps));
  run.train_to_end("one-then", with(2, stage(2)), {}, 2);
  check_losses(run, "one-then");
  // To and from stage 3. The same number of ranks: the same bits.
  back_to_3("then-3");
  run.train_to_end("then-3", with(1, stage(3)), {}, 4);
  check_same(run, "then-3", "four");
  for (const auto& [number, ranks] : {std::pair(1, 2), {3, 2}, {0, 1}}) {
    fs::remove_all(run.checkpoint("then-3", kSteps));
    run.train_to_end("then-3", with(2, stage(number)), {}, ranks);
    check_losses(run, "then-3");
  }
}

TEST_CASE("zero: with shard_size all stages give the same bits without accumulation") {
  const RunDirectory run("ssa-sparse-stream");
  const auto grouped = [](const char* number, const Names& more) {
    Names all = {std::string("distributed.zero_stage=") + number, "distributed.shard_size=2"};
    all.insert(all.end(), more.begin(), more.end());
    return with(2, all);
  };
  run.train_to_end("one", with(8, {}));
  for (const char* number : {"0", "1", "2", "3"}) run.train_to_end(number, grouped(number, {}), {}, 4);
  check_losses(run, "2");
  for (const char* number : {"1", "2", "3"}) check_same(run, "0", number);
}

TEST_CASE("zero: shard_size with accumulation, bf16, without overlap, and at a resume") {
  const RunDirectory run("ssa-sparse-stream");
  const Names groups = {"distributed.zero_stage=2", "distributed.shard_size=2"};
  const auto grouped = [&](int rows, const Names& more) {
    Names all = groups;
    all.insert(all.end(), more.begin(), more.end());
    return with(rows, all);
  };
  run.train_to_end("one", with(8, {}));
  run.train_to_end("groups", grouped(1, {}), {}, 4);
  check_losses(run, "groups");
  run.train_to_end("plain", grouped(1, {"distributed.overlap=false"}), {}, 4);
  check_same(run, "groups", "plain");
  fs::remove_all(run.checkpoint("plain", kSteps));
  run.train_to_end("plain", with(4, stage(1)), {}, 2);  // continues after step 3
  check_losses(run, "plain");
  run.train_to_end("bf16-1", grouped(2, {"distributed.reduce_dtype=bf16", "distributed.zero_stage=1"}), {}, 4);
  run.train_to_end("bf16-2", grouped(2, {"distributed.reduce_dtype=bf16"}), {}, 4);
  check_same(run, "bf16-1", "bf16-2");
}

TEST_CASE("zero: a shard_size that does not divide the ranks is wrong usage") {
  const RunDirectory run("full");
  check_fails(run.train("out", with(4, {"distributed.shard_size=3"})), kExitUsage,
              {"distributed.shard_size: found 3, expected a divisor of the number of ranks, 1, or 0"});
  CHECK_FALSE(fs::exists(run / "out"));
}

TEST_CASE("moments_dtype bf16: a run resumes to the bit, at every stage and with the moments of an f32 run") {
  const RunDirectory run("ssa-sparse-stream");
  const auto narrow = [](int rows, const Names& more) {
    Names all = with(rows, more);
    all.push_back("train.moments_dtype=bf16");
    return all;
  };
  const auto back_to_3 = [&](const std::string& from, const std::string& output) {
    fs::copy(run / from, run / output, fs::copy_options::recursive);
    fs::remove_all(run.checkpoint(output, kSteps));
  };
  run.train_to_end("one", with(8, {}));
  run.train_to_end("narrow", narrow(4, stage(0)), {}, 2);
  CHECK(run.metrics("narrow").back().at("loss") != run.metrics("one").back().at("loss"));
  // A moment is rounded by at most 2^-7 of itself in a step, at random. The update is as far off for a step.
  check_losses(run, "narrow", 5e-3);
  back_to_3("narrow", "narrow-halves");
  run.train_to_end("narrow-halves", narrow(4, stage(3)), {}, 2);
  check_same(run, "narrow-halves", "narrow");
  // Between bf16 and f32.
  back_to_3("narrow", "then-f32");
  run.train_to_end("then-f32", with(8, {}));
  check_losses(run, "then-f32", 5e-3);
  back_to_3("one", "then-narrow");
  run.train_to_end("then-narrow", narrow(8, {}));
  check_losses(run, "then-narrow", 5e-3);
}

TEST_CASE("zero: at stages 2 and 3 a killed rank ends the job, and the run resumes to the same bits") {
  const int number = GENERATE(2, 3);
  const RunDirectory run("ssa-sparse-stream");
  const Names overrides = with(1, stage(number));
  run.train_to_end("whole", overrides, {}, 2);
  for (const char* fault : {"kill@step:5,rank:0,operation:2", "kill@save:2,rank:1"}) {
    INFO(fault);
    const std::string output = std::string("out-") + fault;
    ::setenv("SSA_FAULT", fault, 1);
    const ProgramResult killed = run.train(output, overrides, {}, 2);
    ::unsetenv("SSA_FAULT");
    INFO(killed.out << killed.err);
    CHECK(killed.exit_code != 0);
    CHECK_THAT(killed.out, has("saved " + output + "/checkpoints/step-00000003"));
    CHECK(run.checkpoints(output).front() != "step-00000006");
    run.train_to_end(output, overrides, {}, 2);
    check_same(run, output, "whole");
  }
}

TEST_CASE("zero: the memory plan of each stage") {
  const ModelConfig model = small_model();
  constexpr int kRanks = 4;
  const ParamTable table(model, kRanks);
  const auto bytes = [&](int zero_stage, DType reduce_dtype, const std::string& category,
                         DType moments_dtype = DType::f32, const std::vector<PassShape>& tasks = {}) {
    const MemoryPlan plan = plan_memory({.model = model,
                                         .pass = {.rows = 1, .tokens = 8, .path = AttentionPath::full},
                                         .kind = DeviceKind::cuda,
                                         .ranks = kRanks,
                                         .zero_stage = zero_stage,
                                         .reduce_dtype = reduce_dtype,
                                         .moments_dtype = moments_dtype,
                                         .tasks = tasks},
                                        table);
    for (const MemoryPlan::Category& c : plan.categories)
      if (c.name == category) return static_cast<std::int64_t>(c.bytes);
    FAIL(category);
    return std::int64_t{0};
  };
  // Each tensor is a multiple of 256 bytes: buckets are multiples of 128 elements per rank.
  const std::int64_t all = table.size() * 4;
  CHECK(bytes(0, DType::f32, "gradients") == all);
  CHECK(bytes(1, DType::f32, "gradients") == all);
  CHECK(bytes(0, DType::f32, "optimizer state") == 3 * all);
  CHECK(bytes(1, DType::f32, "optimizer state") == 3 * all / kRanks);
  CHECK(bytes(2, DType::f32, "optimizer state") == 3 * all / kRanks);
  const BucketOrder order(model);
  const auto elements = [&](std::size_t i) { return table.buckets()[i].range.count(); };
  std::int64_t pass = elements(order.embedding) + elements(order.norms) + 2 * elements(order.layer(0));
  if (order.head != order.embedding) pass += elements(order.head);
  for (const int stage : {2, 3}) CHECK(bytes(stage, DType::f32, "gradients") == all / kRanks + 4 * pass);
  CHECK(bytes(2, DType::f32, "weights") == all / 2);
  // At stage 3 an untied LM head has the memory of the embedding; what tasks read is whole, while they run.
  std::int64_t read = elements(order.embedding) + elements(order.norms) + 2 * elements(order.layer(0));
  CHECK(bytes(3, DType::f32, "weights") == all / 2 / kRanks + 2 * read);
  CHECK(bytes(3, DType::f32, "optimizer state") == 3 * all / kRanks);
  const std::vector<PassShape> tasks = {{.rows = 1, .tokens = 8, .path = AttentionPath::full, .backward = false}};
  const char* running = "eval_tasks, while they run";
  CHECK(bytes(3, DType::f32, running, DType::f32, tasks) == bytes(2, DType::f32, running, DType::f32, tasks) + all / 2);
  CHECK(bytes(2, DType::f32, "optimizer state", DType::bf16) == 2 * all / kRanks);
  const std::int64_t largest = std::max(elements(order.embedding), elements(order.layer(0)));
  CHECK(bytes(1, DType::bf16, "gradients") == all + 2 * largest);
}

TEST_CASE("zero: ssa-8b fits four GPUs of 80 GB at stage 2 and not at stage 0") {
  Config config = load_config(source_dir() / "configs/ssa-8b.json");
  const ParamTable table(config.model, 4);
  CHECK(table.parameter_count() == 8'042'844'160);
  const auto bytes = [&](std::int64_t zero_stage) {
    config.distributed.zero_stage = zero_stage;
    const StateShape shape = state_shape(config, DeviceKind::cuda, 4);
    check_supported(shape);
    return static_cast<double>(plan_memory(shape, table).total());
  };
  CHECK(config.distributed.zero_stage == 2);
  CHECK(bytes(3) < bytes(2) - 8e9);
  CHECK(bytes(2) < 70e9);  // 10 GB remain for the CUDA context, cuBLASLt and NCCL
  CHECK(bytes(1) > 80e9);
  CHECK(bytes(0) > 150e9);
}

TEST_CASE("zero: when memory is short, the message says what higher stages would hold") {
  const ModelConfig model = small_model();
  const ParamTable table(model, 2);
  Stream stream(DeviceKind::cpu);
  const StateShape shape{.model = model,
                         .pass = {.rows = 1 << 20, .tokens = 1 << 16, .path = AttentionPath::full},
                         .ranks = 2,
                         .zero_stage = 0};
  CHECK_THROWS_WITH(ModelState(stream, shape, table, 0), has("largest per_device_train_batch_size that fits: ") &&
                                                             has(", with distributed.zero_stage=1: ") &&
                                                             has(", =2: ") && has(", =3: "));
  StateShape alone = shape;
  alone.ranks = 1;
  CHECK_THROWS_WITH(ModelState(stream, alone, table, 0), !has("zero_stage"));
}
