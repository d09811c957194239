#include "ssa/train/schedule.h"

#include "ssa/train/run_plan.h"

#include <cmath>
#include <numbers>

#include "ssa/base/error.h"
#include "support/catch.h"
#include "support/error_of.h"

using namespace ssa;
using Catch::Matchers::WithinAbs;
using ssa::test::error_of;
using ssa::test::has;

namespace {

/// Equal up to the rounding of a double formula.
auto close(double expected) { return Catch::Matchers::WithinRel(expected, 1e-13); }

TrainConfig schedule(LrScheduler type, std::int64_t warmup, double min_lr = 0.0) {
  TrainConfig train;
  train.learning_rate = 0.01;
  train.min_lr = min_lr;
  train.lr_scheduler_type = type;
  train.warmup_ratio.reset();
  train.warmup_steps = warmup;
  return train;
}

}  // namespace

TEST_CASE("schedule: cosine_with_min_lr gives the rates of the golden cases") {
  const double expected[] = {0.0,
                             0.005,
                             0.01,
                             0.009397114317029975,
                             0.007750000000000001,
                             0.0055000000000000005,
                             0.003250000000000001,
                             0.0016028856829700259};
  const TrainConfig train = schedule(LrScheduler::cosine_with_min_lr, 2, 0.001);
  for (int step = 0; step < 8; ++step) CHECK_THAT(learning_rate(train, step, 8), close(expected[step]));
  CHECK_THAT(learning_rate(train, 8, 8), close(0.001));
}

TEST_CASE("schedule: cosine, linear, constant_with_warmup and warmup_stable_decay") {
  const TrainConfig cosine = schedule(LrScheduler::cosine, 10);
  CHECK(learning_rate(cosine, 0, 110) == 0.0);
  CHECK_THAT(learning_rate(cosine, 9, 110), close(0.009));
  CHECK_THAT(learning_rate(cosine, 10, 110), close(0.01));
  CHECK_THAT(learning_rate(cosine, 35, 110), close(0.005 * (1 + std::cos(std::numbers::pi / 4))));
  CHECK_THAT(learning_rate(cosine, 110, 110), WithinAbs(0.0, 1e-18));

  const TrainConfig linear = schedule(LrScheduler::linear, 10);
  CHECK_THAT(learning_rate(linear, 35, 110), close(0.0075));
  CHECK_THAT(learning_rate(linear, 109, 110), close(0.0001));

  const TrainConfig constant = schedule(LrScheduler::constant_with_warmup, 4);
  CHECK_THAT(learning_rate(constant, 1, 100), close(0.0025));
  CHECK(learning_rate(constant, 99, 100) == 0.01);

  const TrainConfig wsd = schedule(LrScheduler::warmup_stable_decay, 4, 0.002);
  CHECK_THAT(learning_rate(wsd, 2, 100), close(0.005));
  CHECK(learning_rate(wsd, 50, 100) == 0.01);
  CHECK(learning_rate(wsd, 90, 100) == 0.01);
  CHECK_THAT(learning_rate(wsd, 95, 100), close(0.006));
  CHECK_THAT(learning_rate(wsd, 99, 100), close(0.0028));
}

TEST_CASE("schedule: the decay of warmup_stable_decay has its length and its form") {
  // N = 100, W = 10, E = 40, r = 0.2: the values are those of the formulas in schedule.h, worked out apart from them.
  TrainConfig train = schedule(LrScheduler::warmup_stable_decay, 10, 0.002);
  train.decay_ratio.reset();
  train.decay_steps = 40;
  for (const DecayType type : {DecayType::linear, DecayType::cosine, DecayType::one_minus_sqrt}) {
    train.decay_type = type;
    CHECK_THAT(learning_rate(train, 5, 100), close(0.005));
    for (const std::int64_t step : {10, 59, 60}) CHECK(learning_rate(train, step, 100) == 0.01);
    CHECK_THAT(learning_rate(train, 100, 100), close(0.002));
  }
  const auto at_70_and_99 = [&](DecayType type) {
    train.decay_type = type;
    return std::pair(learning_rate(train, 70, 100), learning_rate(train, 99, 100));
  };
  const auto [linear_70, linear_99] = at_70_and_99(DecayType::linear);
  CHECK_THAT(linear_70, close(0.008));   // 0.002 + 0.008 * 0.75
  CHECK_THAT(linear_99, close(0.0022));  // 0.002 + 0.008 / 40
  const auto [cosine_70, cosine_99] = at_70_and_99(DecayType::cosine);
  CHECK_THAT(cosine_70, close(0.002 + 0.004 * (1 + std::numbers::sqrt2 / 2)));
  CHECK_THAT(cosine_99, close(0.002 + 0.004 * (1 + std::cos(std::numbers::pi * 39 / 40))));
  const auto [sqrt_70, sqrt_99] = at_70_and_99(DecayType::one_minus_sqrt);
  CHECK_THAT(sqrt_70, close(0.006));  // 0.002 + 0.008 * (1 - 1 / 2)
  CHECK_THAT(sqrt_99, close(0.002 + 0.008 * (1 - std::sqrt(39.0 / 40))));

  train.decay_steps = 0;
  for (const std::int64_t step : {10, 99, 100, 1000}) CHECK(learning_rate(train, step, 100) == 0.01);
  train.decay_steps.reset();
  train.decay_ratio = 0.25;
  CHECK(decay_steps(train, 99) == 25);  // ceil(24.75)
  CHECK(decay_steps(schedule(LrScheduler::cosine, 10), 99) == 0);
}

TEST_CASE("schedule: a decay that is longer than the run, or would have begun before a branch, is refused") {
  TrainConfig train = schedule(LrScheduler::warmup_stable_decay, 10);
  train.decay_ratio.reset();
  train.decay_steps = 90;
  check_schedule(train, 100);
  train.decay_steps = 91;
  CHECK(error_of([&] { check_schedule(train, 100); }) ==
        "train.decay_steps: found 91, expected at most 90: the run has 100 steps, of which 10 are warm-up");
  train.decay_steps = 30;
  check_branch(train, 70, 100);
  CHECK(
      error_of([&] { check_branch(train, 71, 100); }) ==
      "train.decay_steps: found a decay of 30 steps, expected at most 29: init_from has done 71 of 100 steps, and the "
      "decay would have begun before");
  CHECK(error_of([&] { check_branch(train, 100, 100); }) ==
        "train.max_steps: found 100, expected more than 100, the steps that init_from has done (init_state run)");
  CHECK(schedule_line(train, 100) ==
        "learning rate: warmup_stable_decay, warm-up in steps 0 to 9, 0.01 at step 10, linear decay from step 70 on, "
        "0.000333333 in the last step");
}

TEST_CASE("schedule: the log says that a warmup which takes the whole run does not reach the learning rate") {
  TrainConfig train = schedule(LrScheduler::cosine, 8);
  CHECK(schedule_line(train, 9).ends_with("0.01 at step 8, 0.01 in the last step"));
  for (const std::int64_t warmup : {8, 1000}) {
    train = schedule(LrScheduler::cosine, warmup);
    CHECK_THAT(schedule_line(train, 8),
               has("warm-up in all steps, ") && has(" in the last one: train.learning_rate 0.01 is not reached"));
  }
}

TEST_CASE("schedule: without a warmup the first step has the peak rate") {
  for (const LrScheduler type : {LrScheduler::cosine_with_min_lr, LrScheduler::cosine, LrScheduler::linear,
                                 LrScheduler::constant_with_warmup, LrScheduler::warmup_stable_decay}) {
    CHECK_THAT(learning_rate(schedule(type, 0), 0, 100), close(0.01));
  }
}

TEST_CASE("schedule: rates stay in range for runs of one step, runs inside the warmup, and steps after the end") {
  for (const LrScheduler type : {LrScheduler::cosine_with_min_lr, LrScheduler::cosine, LrScheduler::linear,
                                 LrScheduler::constant_with_warmup, LrScheduler::warmup_stable_decay}) {
    for (const std::int64_t total : {1, 2, 5, 30}) {
      for (const std::int64_t warmup : {0, 1, 5, 40}) {
        for (std::int64_t step = 0; step <= total + 3; ++step) {
          const double rate = learning_rate(schedule(type, warmup), step, total);
          CAPTURE(name_of(type), total, warmup, step);
          CHECK((rate >= 0.0 && rate <= 0.01));
        }
      }
    }
  }
}

TEST_CASE("schedule: warmup_steps, total_steps and save_interval round fractions up") {
  TrainConfig train;
  CHECK(warmup_steps(train, 250) == 3);  // ceil(0.01 * 250)
  CHECK(warmup_steps(train, 200) == 2);
  train.warmup_steps = 7;
  CHECK(warmup_steps(train, 250) == 7);

  train.num_train_epochs = 1.5;
  const BatchPlan plan({.sources = {{11}}, .global_rows = 2, .micro_rows = 1, .ranks = 1});
  CHECK(total_steps(train, plan) == 8);
  CHECK(total_steps(train, plan, 6, {1, 2}) == 8);
  train.max_steps = 3;
  CHECK(total_steps(train, plan) == 3);

  CheckpointConfig checkpoint;
  CHECK(save_interval(checkpoint, 25) == 3);  // ceil(0.1 * 25)
  CHECK(save_interval(checkpoint, 1) == 1);
  checkpoint.save_steps = 100;
  CHECK(save_interval(checkpoint, 25) == 100);
  checkpoint.save_steps = 0;
  CHECK(save_interval(checkpoint, 25) == 0);
}
