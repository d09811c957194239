// Steps whose loss or gradient norm is far above those before: found, logged, skipped, or the end of the run.
#include "ssa/train/spike_detector.h"

#include <cmath>
#include <limits>

#include "support/make_dataset.h"
#include "train/run_directory.h"

using namespace ssa;
using namespace ssa::test;

TEST_CASE("spikes: z-scores are those of the last values of the window") {
  SlidingWindow window(12);
  for (int i = 0; i < 9; ++i) window.add(100);
  CHECK(!window.z_score(5));
  for (int i = 0; i < 12; ++i) window.add(i % 2 == 0 ? 3 : 5);  // mean 4, standard deviation 1
  CHECK(std::abs(*window.z_score(10) - 6) < 1e-12);
  CHECK(std::abs(*window.z_score(2) + 2) < 1e-12);
  CHECK(std::isinf(*window.z_score(std::numeric_limits<double>::quiet_NaN())));
  window.add(std::numeric_limits<double>::infinity());
  CHECK(window.values().size() == 12);
  SlidingWindow constant(12);
  for (int i = 0; i < 12; ++i) constant.add(4);
  CHECK(std::abs(*constant.z_score(4.004) - 1) < 1e-9);  // 0.1 % of the mean is the least deviation
}

TEST_CASE("spikes: a detector continues from its saved state") {
  SpikeDetector detector(16);
  for (int i = 0; i < 20; ++i) detector.add(2 + 0.1 * std::sin(i), 1.0 / 3 * i);
  SpikeDetector restored(16);
  restored.set_state(nlohmann::json::parse(detector.state().dump()));
  CHECK(restored.scores(3, 9).loss == detector.scores(3, 9).loss);
  CHECK(restored.scores(3, 9).grad_norm == detector.scores(3, 9).grad_norm);
  CHECK_THROWS_AS(restored.set_state({{"loss", "x"}}), Error);
}

TEST_CASE("spikes: a step without a loss is no spike unless its gradient is not finite, and is not in the windows") {
  SpikeDetector detector(16);
  for (int i = 0; i < 12; ++i) detector.add(2 + 0.1 * i, 1 + 0.1 * i);
  const nlohmann::json before = detector.state();
  detector.add(std::nullopt, 0);
  CHECK(detector.state() == before);
  CHECK_FALSE(detector.scores(std::nullopt, 1e9).above(6));
  CHECK(detector.scores(std::nullopt, std::numeric_limits<double>::quiet_NaN()).above(6));
}

namespace {

constexpr std::int64_t kBadStep = 31;  // its two rows are 60 and 61

/// One document per row, two rows per step: the same few tokens over and over, but noise at kBadStep.
void write_data(const fs::path& directory) {
  Documents documents;
  for (std::int64_t i = 0; i < 80; ++i) {
    TokenIds& document = documents.emplace_back();
    const bool bad = i / 2 + 1 == kBadStep;
    for (std::int64_t t = 0; t < 32; ++t)
      document.push_back(static_cast<std::int32_t>(bad ? (i * 7919 + t * t * 31) % 250 : (t + i) % 3));
    document.push_back(257);
  }
  fs::remove_all(directory);
  make_dataset(directory, {documents}, {.vocab_size = 258, .eos_token_id = 257});
}

const Names kTraining = {"train.max_steps=40", "checkpoint.save_steps=10", "train.spike_window=20",
                         "train.lr_scheduler_type=constant_with_warmup", "train.min_lr=0"};

Names training(const Names& more) {
  Names all = kTraining;
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

}  // namespace

TEST_CASE("spikes: bad rows are logged, skipped, stop the run, or are left out by data.skip_ranges") {
  const RunDirectory run("full");
  write_data(run / "data");
  const ProgramResult logged = run.train("log", kTraining);
  INFO(logged.out << logged.err);
  REQUIRE(logged.exit_code == 0);
  CHECK_THAT(logged.out, has("step 31: spike: loss "));
  CHECK_THAT(logged.out, has("rows 60 to 61"));
  const auto metrics = run.metrics("log");
  REQUIRE(metrics.size() == 40);
  CHECK(metrics[30].at("loss_z_score").get<double>() > 6);
  CHECK(metrics[29].at("loss_z_score").get<double>() < 6);
  CHECK(!metrics[5].contains("loss_z_score"));

  const ProgramResult skipped = run.train("skip", training({"train.on_spike=skip"}));
  INFO(skipped.out << skipped.err);
  REQUIRE(skipped.exit_code == 0);
  CHECK_THAT(skipped.out, has("update skipped, 1 of at most 10"));
  const auto skip = run.metrics("skip");
  CHECK(skip[30].at("skipped_updates") == 1);
  CHECK(skip[30].at("tokens") == metrics[30].at("tokens"));
  CHECK(skip[31].at("rows") == metrics[31].at("rows"));
  // A resumed run has the same window, and counts on.
  fs::remove_all(run.checkpoint("skip", 40));
  run.train_to_end("skip", training({"train.on_spike=skip"}));
  CHECK(run.metrics("skip") == skip);

  check_fails(run.train("stop", training({"train.on_spike=stop"})), kExitFailed,
              {"step 31: spike: loss ", "rows 60 to 61", "train.on_spike is stop",
               "the last checkpoint is stop/checkpoints/step-00000030", "data.skip_ranges"});
  CHECK(run.metrics("stop").size() == 30);
  // The rows left out by name, from the checkpoint before them: as if they were not in the data.
  run.train_to_end("stop", training({"data.skip_ranges=[[60,61]]"}));
  const auto around = run.metrics("stop");
  REQUIRE(around.size() == 40);
  CHECK(around[30].at("rows") == nlohmann::json({62, 63}));
  CHECK(around[30].at("loss").get<double>() < metrics[30].at("loss").get<double>() / 2);
}

TEST_CASE("spikes: the number of skipped updates is bounded") {
  const RunDirectory run("full");
  write_data(run / "data");
  // A learning rate that ruins the weights: every step after it is a spike.
  run.train_to_end("out", training({"train.max_steps=30"}));
  check_fails(
      run.train("out", training({"train.learning_rate=3", "train.on_spike=skip", "train.max_skipped_updates=2"})),
      kExitFailed, {"spike: loss ", "train.max_skipped_updates 2 are used up"});
}

TEST_CASE("no targets: a step in which no token has one has no loss, on one rank and on two") {
  for (const int ranks : {1, 2}) {
    const bool aligned = ranks == 1;
    INFO(ranks << " ranks");
    const RunDirectory run(aligned ? "ssa-sparse-stream" : "full");
    // Four rows of 33 tokens per step. Documents of one token fill those of step 2.
    Documents documents;
    for (std::int32_t row = 0; row < 32; ++row) {
      if (row / 4 == 1) {
        documents.insert(documents.end(), 33, {257});
        continue;
      }
      documents.emplace_back(33, 1 + row % 3).back() = 257;
    }
    fs::remove_all(run / "data");
    make_dataset(run / "data", {documents}, {.vocab_size = 258, .eos_token_id = 257});
    const ProgramResult result =
        run.train("out", {"train.global_batch_size=4", "train.max_length=33", "train.max_steps=4"}, {}, ranks);
    INFO(result.out << result.err);
    REQUIRE(result.exit_code == 0);
    CHECK_THAT(result.out, has("step 2: no token of rows 4 to 7 has a target") && has("step 2/4  loss none"));
    const auto metrics = run.metrics("out");
    REQUIRE(metrics.size() == 4);
    CHECK(metrics[1].at("loss").is_null());
    CHECK(metrics[1].at("ce_loss").is_null());
    CHECK((metrics[1].at("alignment_loss") > 0) == aligned);
    CHECK((metrics[1].at("grad_norm") > 0) == aligned);
    for (const std::size_t other : {0, 2, 3}) CHECK(metrics[other].at("loss") > 0);
  }
}
