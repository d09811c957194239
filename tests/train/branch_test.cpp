// Runs that start from a checkpoint of another run (init_from, init_state), and schedules of the batch size.
#include "ssa/train/schedule.h"
#include "support/error_of.h"
#include "support/make_dataset.h"
#include "train/run_directory.h"

using namespace ssa;
using namespace ssa::test;
using nlohmann::json;

namespace {

/// `count` documents of one row each; all equal, or each of its own.
void write_rows(const fs::path& directory, std::int64_t count, bool equal) {
  Documents documents(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < documents.size(); ++i) {
    const std::size_t first = equal ? 3 : 31 * i;
    for (std::size_t t = 0; t < 33; ++t) documents[i].push_back(static_cast<std::int32_t>((first + t * t) % 250));
    documents[i].back() = 257;
  }
  fs::remove_all(directory);
  make_dataset(directory, {documents}, {.vocab_size = 258, .eos_token_id = 257});
}

/// Every line of metrics.jsonl.
std::vector<json> lines_of(const fs::path& directory) {
  std::vector<json> lines;
  std::ifstream stream(directory / "metrics.jsonl");
  for (std::string line; std::getline(stream, line);) lines.push_back(json::parse(line));
  return lines;
}

const Names kStable = {"train.lr_scheduler_type=warmup_stable_decay", "train.warmup_steps=2", "train.decay_steps=0",
                       "train.min_lr=0.001", "checkpoint.save_steps=2"};

}  // namespace

TEST_CASE("branch: a decay from a checkpoint of a stable run equals a run that was planned with it, bit for bit") {
  const RunDirectory run("ssa-sparse-stream");
  write_rows(run / "data", 80, false);
  const Names stable = with(kStable, {"init_from=null", "data.shuffle=true"});
  run.train_to_end("stable", with(stable, {"train.max_steps=6"}));
  const Names decay = with(stable, {"train.max_steps=7", "train.decay_steps=3", "train.decay_type=1-sqrt"});
  run.train_to_end("planned", decay);
  const Names branch = with(decay, {"init_from=stable/checkpoints/step-00000004", "init_state=run"});
  ProgramResult result = run.train("branch", with(branch, {"checkpoint.save_steps=1"}));
  INFO(log_of(result));
  REQUIRE(result.exit_code == kExitDone);
  CHECK_THAT(result.out, has("starting from stable/checkpoints/step-00000004; taken: weights, moments of 4 steps, step "
                             "4 and position in the data after 16 rows (init_state run)"));
  CHECK_THAT(result.out, has("train.max_steps: 6 in the checkpoint, 7 now"));
  CHECK_THAT(result.out, has("1-sqrt decay from step 4 on"));
  check_same_state(run.checkpoint("planned", 7), run.checkpoint("branch", 7));
  auto planned = lines_of(run / "planned"), branched = lines_of(run / "branch");
  REQUIRE(branched.size() == 3);
  TrainConfig train;
  train.learning_rate = planned[3].at("learning_rate");
  train.min_lr = 0.001;
  train.lr_scheduler_type = LrScheduler::warmup_stable_decay;
  train.warmup_steps = 2;
  train.decay_steps = 3;
  train.decay_type = DecayType::one_minus_sqrt;
  for (std::size_t i = 0; i < 3; ++i) {
    for (const char* key : {"step", "tokens", "loss", "learning_rate", "rows", "epoch", "stream"})
      CHECK(branched[i].at(key) == planned[4 + i].at(key));
    CHECK(branched[i].at("learning_rate") == learning_rate(train, static_cast<std::int64_t>(4 + i), 7));
  }
  // A branch that is interrupted resumes from its own checkpoint.
  fs::remove_all(run.checkpoint("branch", 7));
  fs::remove_all(run.checkpoint("branch", 6));
  result = run.train("branch", with(branch, {"checkpoint.save_steps=1"}));
  REQUIRE(result.exit_code == kExitDone);
  CHECK_THAT(result.out, has("resuming from branch/checkpoints/step-00000005"));
  check_same_state(run.checkpoint("planned", 7), run.checkpoint("branch", 7));
  // A run's directory names its newest checkpoint; on two ranks the same rows are read.
  result = run.train(
      "two", with(branch, {"init_from=stable", "train.decay_steps=1", "train.per_device_train_batch_size=1"}), {}, 2);
  INFO(log_of(result));
  REQUIRE(result.exit_code == kExitDone);
  CHECK_THAT(result.out, has("starting from stable/checkpoints/step-00000006; taken: weights, moments of 6 steps"));
  CHECK(lines_of(run / "two").at(0).at("rows") == planned[6].at("rows"));
}

TEST_CASE("branch: init_state decides whether moments are taken, and their bias correction with them") {
  const RunDirectory run("full");
  write_rows(run / "data", 60, true);  // every step sees the same, so that the position in the data does not matter
  const Names constant = {"train.lr_scheduler_type=constant_with_warmup", "train.min_lr=0", "train.warmup_steps=0",
                          "checkpoint.save_steps=3", "init_from=null"};
  run.train_to_end("whole", with(constant, {"train.max_steps=6"}));
  const Names from = with(constant, {"train.max_steps=3", "init_from=whole/checkpoints/step-00000003"});
  ProgramResult result = run.train("optimizer", with(from, {"init_state=optimizer"}));
  INFO(log_of(result));
  REQUIRE(result.exit_code == kExitDone);
  CHECK_THAT(result.out, has("taken: weights and moments of 3 steps; new: step and position in the data (init_state "
                             "optimizer)"));
  check_same_state(run.checkpoint("whole", 6), run.checkpoint("optimizer", 3));
  CHECK(run.metrics("optimizer").at(0).at("rows") == json({0, 1}));
  // The number of steps in the moments is saved: a second stage after the first, interrupted in its middle.
  run.train_to_end("seven", with(constant, {"train.max_steps=7"}));
  const Names second = with(constant, {"init_from=optimizer", "init_state=optimizer", "checkpoint.save_steps=1"});
  run.train_to_end("second", with(second, {"train.max_steps=1"}));
  check_same_state(run.checkpoint("seven", 7), run.checkpoint("second", 1));

  result = run.train("weights", from);
  REQUIRE(result.exit_code == kExitDone);
  CHECK_THAT(result.out, has("taken: weights; new: moments, step and position in the data (init_state weights)"));
  CHECK(run.metrics("weights").at(0).at("loss") == run.metrics("whole").at(3).at("loss"));
  CHECK(run.metrics("weights").at(2).at("loss") != run.metrics("whole").at(5).at("loss"));
}

TEST_CASE("branch: what cannot be taken is refused, and what differs is said") {
  const RunDirectory run("full");
  write_rows(run / "data", 60, false);
  run.train_to_end("stable", with(kStable, {"init_from=null", "train.max_steps=4"}));
  const auto start = [&](const Names& more, const Names& options = {}) {
    fs::remove_all(run / "out");
    return run.train("out", with(with(kStable, {"train.max_steps=8", "init_from=stable"}), more), options);
  };
  check_fails(start({"init_from=model", "init_state=optimizer"}), kExitUsage,
              {"init_state: found optimizer, expected weights: init_from model is neither a checkpoint nor a run"});
  check_fails(start({"init_from=absent"}), kExitFailed, {"init_from: absent is no directory"});
  check_fails(start({"init_state=run", "train.max_steps=4"}), kExitUsage,
              {"train.max_steps: found 4, expected more than 4"});
  check_fails(start({"init_state=run", "train.decay_steps=5"}), kExitUsage,
              {"train.decay_steps: found a decay of 5 steps, expected at most 4"});
  check_fails(start({"train.decay_steps=7"}), kExitUsage, {"train.decay_steps: found 7, expected at most 6"});
  check_fails(start({"init_state=run", "train.seed=7"}), kExitUsage,
              {"stable/checkpoints/step-00000004", "train.seed", "--allow-change"});
  check_fails(start({"model.num_hidden_layers=1"}), kExitFailed, {"stable/checkpoints/step-00000004"});
  check_fails(start({"attention.method=ssa", "model.num_key_value_heads=4"}), kExitUsage,
              {"num_key_value_heads is 2, expected model.num_key_value_heads 4"});
  fs::create_directory(run / "bare");
  for (const char* file : {"config.json", "trainer.json", "model.safetensors", "optimizer.safetensors"})
    fs::copy(run.checkpoint("stable", 4) / file, run / "bare");
  check_fails(start({"init_from=bare"}), kExitFailed, {"bare: not a complete checkpoint: manifest.json is missing"});
  // --dry-run says the same.
  check_fails(start({"init_state=run", "train.decay_steps=5"}, {"--dry-run"}), kExitUsage, {"train.decay_steps"});
  const ProgramResult dry = start({"init_state=run", "train.decay_steps=3"}, {"--dry-run"});
  REQUIRE(dry.exit_code == kExitDone);
  for (const char* part : {"stable/checkpoints/step-00000004; taken: weights, moments of 4 steps, step 4",
                           "of them by init_from     4", "tokens of the run        528", "linear decay from step 5 on"})
    CHECK_THAT(dry.out, has(part));

  const ProgramResult result =
      start({"attention.method=moba", "train.max_steps=1",
             R"(model.rope_scaling={"rope_type": "llama3", "factor": 4, "low_freq_factor": 1, "high_freq_factor": 4, )"
             R"("original_max_position_embeddings": 33})"});
  INFO(log_of(result));
  REQUIRE(result.exit_code == kExitDone);
  CHECK_THAT(log_of(result), has("rope_scaling is none; this run has model.rope_scaling llama3 4, 1, 4, 33"));
  CHECK_THAT(log_of(result), has("this run has attention.method moba"));
}

TEST_CASE("init_from: a model of another tokenizer than the data's is refused, unless the command line allows it") {
  const RunDirectory run("full");
  write_rows(run / "data", 60, false);
  write_rows(run / "other", 60, true);
  name_other_tokenizer(run / "other/dataset.json");
  const std::string first = "bytes, sha256 0000", second = "bytes, sha256 1000";
  const auto start = [&](const Names& set, const Names& options = {}) {
    fs::remove_all(run / "out");
    return run.train("out", with({"train.max_steps=2", "checkpoint.save_steps=2"}, set), options);
  };
  const auto refused = [&](const Names& set, const std::string& found, const std::string& expected) {
    for (const Names& options : {Names{}, Names{"--dry-run"}})
      check_fails(
          start(set, options), kExitUsage,
          {"init_from " + found, ", expected " + expected, "which the data was made with", "--allow-change init_from"});
  };
  const auto allowed = [&](const Names& set, const std::string& found, const std::string& now) {
    for (const Names& options : {Names{}, Names{"--dry-run"}}) {
      const ProgramResult result = start(set, with(options, {"--allow-change", "init_from"}));
      INFO(log_of(result));
      CHECK(result.exit_code == kExitDone);
      CHECK_THAT(log_of(result), has("init_from " + found));
      CHECK_THAT(log_of(result), has("; the data was made with " + now) && has("(allowed by --allow-change)"));
    }
  };
  const auto accepted = [&](const Names& set) {
    const ProgramResult result = start(set);
    INFO(log_of(result));
    CHECK(result.exit_code == kExitDone);
    CHECK_THAT(log_of(result), !has("tokenizer"));
  };

  // A run knows its tokenizer while its data is at its path.
  run.train_to_end("stable", {"init_from=null", "train.max_steps=2", "checkpoint.save_steps=2"});
  const std::string checkpoint = "stable/checkpoints/step-00000002: the model's tokenizer is ";
  for (const char* state : {"weights", "optimizer"}) {
    const Names set = {"data.path=other", "init_from=stable", concat("init_state=", state)};
    refused(set, checkpoint + first, second);
    allowed(set, checkpoint + first, second);
    accepted({"init_from=stable", concat("init_state=", state)});
  }
  // Of a mix, the first source may be one of Megatron's own datasets, which name no tokenizer.
  write_rows(run / "a-megatron", 60, true);
  fs::remove(run / "a-megatron/dataset.json");
  refused({R"(data.sources=[{"path": "a-megatron", "weight": 1}, {"path": "other", "weight": 1}])", "init_from=stable"},
          checkpoint + first, second);
  // At a resume, and a continued run, --allow-change names the data.
  for (const Names& set : {Names{"init_from=stable", "init_state=run", "train.max_steps=3"},
                           Names{"init_from=null", "output_dir=stable", "train.max_steps=3"}}) {
    const ProgramResult result = start(with({"data.path=other"}, set), {"--allow-change", "data.path"});
    INFO(log_of(result));
    CHECK(result.exit_code == kExitDone);
    CHECK_THAT(log_of(result), has("resume: tokenizer of the data: " + first) && has(" in the checkpoint, " + second));
  }
  fs::remove_all(run / "stable/checkpoints/step-00000003");
  fs::rename(run / "data", run / "moved");
  accepted({"data.path=other", "init_from=stable"});
  fs::rename(run / "moved", run / "data");

  // A Hugging Face directory knows it by its tokenizer's files.
  accepted({"init_from=model"});
  write_file(run / "model/tokenizer.json", "{}");
  const std::string file = "model: the model's tokenizer is model/tokenizer.json, sha256 44136fa355b3678a";  // of "{}"
  for (const Names& options : {Names{}, Names{"--dry-run"}}) {
    const ProgramResult result = start({"init_from=model"}, options);
    CHECK(result.exit_code == kExitDone);
    CHECK_THAT(log_of(result), has("init_from " + file) && has("; the data was made with " + first));
  }
  // One of several files is enough, and what ssa_export made tokenizer.json from.
  std::string info = ssa::read_file(run / "data/dataset.json");
  const std::string zeros(64, '0'), empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
  write_file(run / "model/tokenizer_config.json", json{{"made_from_sha256", zeros}}.dump());
  accepted({"init_from=model"});
  fs::remove(run / "model/tokenizer_config.json");
  write_file(run / "model/tokenizer.model", "");
  write_file(run / "data/dataset.json", info.replace(info.find(zeros), 64, empty));
  accepted({"init_from=model"});
  // Not downloaded.
  fs::remove(run / "model/tokenizer.model");
  write_file(run / "model/tokenizer.json", "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n");
  accepted({"init_from=model"});
}

TEST_CASE("batch schedule: the rows of each step, on any number of ranks and after a resume at any step") {
  const RunDirectory run("full");
  write_rows(run / "data", 60, false);
  const Names scheduled = {"train.global_batch_size_schedule=[[0, 2], [2, 4], [5, 8]]", "train.max_steps=7",
                           "checkpoint.save_steps=1"};
  run.train_to_end("whole", scheduled);
  const auto whole = run.metrics("whole");
  REQUIRE(whole.size() == 7);
  std::int64_t next = 0;
  for (std::int64_t step = 0; step < 7; ++step) {
    const std::int64_t rows = step < 2 ? 2 : step < 5 ? 4 : 8;
    const json& line = whole[static_cast<std::size_t>(step)];
    CHECK(line.at("rows") == json({next, next + rows - 1}));
    next += rows;
    CHECK(line.at("step_tokens") == rows * 33);
    CHECK(line.at("tokens") == next * 33);
  }
  for (const int step : {1, 3, 5}) {
    fs::remove_all(run / "again");
    run.train_to_end("again", scheduled, {"--resume", run.checkpoint("whole", step).string()});
    check_same_state(run.checkpoint("whole", 7), run.checkpoint("again", 7));
  }
  run.train_to_end("two", with(scheduled, {"train.per_device_train_batch_size=1"}), {}, 2);
  const auto two = run.metrics("two");
  for (std::size_t i = 0; i < 7; ++i) {
    CHECK(two[i].at("rows") == whole[i].at("rows"));
    // float32 sums in another order.
    CHECK(std::abs(two[i].at("loss").get<double>() - whole[i].at("loss").get<double>()) < 1e-4);
  }
  // A resume on two ranks in the middle of the schedule.
  run.train_to_end("later", with(scheduled, {"train.per_device_train_batch_size=1"}),
                   {"--resume", run.checkpoint("whole", 3).string()}, 2);
  const auto later = lines_of(run / "later");
  REQUIRE(later.size() == 4);
  for (std::size_t i = 0; i < 4; ++i)
    for (const char* key : {"step", "rows", "tokens", "step_tokens", "learning_rate"})
      CHECK(later[i].at(key) == whole[3 + i].at(key));
  const ProgramResult refused = run.train("three", scheduled, {}, 2);
  CHECK(refused.exit_code == kExitUsage);
  CHECK_THAT(refused.err, has("train.global_batch_size_schedule: found 2, expected a multiple of 4"));
  const ProgramResult dry = run.train("dry", scheduled, {"--dry-run"});
  REQUIRE(dry.exit_code == kExitDone);
  for (const char* part : {"from step 0: 2 rows per global batch, 1 micro-batches per rank, 66 tokens per step",
                           "from step 5: 8 rows per global batch, 4 micro-batches per rank, 264 tokens per step",
                           "tokens of the run        1056"})
    CHECK_THAT(dry.out, has(part));
}
