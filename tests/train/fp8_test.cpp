// Runs with train.fp8: on several ranks at every ZeRO stage, with recomputed activations, and with document masks.
// tests/model has what FP8 changes in a pass, resume_test that a run in FP8 resumes to the bit.
#include <cmath>

#include "support/make_dataset.h"
#include "train/run_directory.h"

using namespace ssa;
using namespace ssa::test;

namespace {

Names in_fp8(const std::string& mode, const Names& more) {
  Names all = {"train.fp8=" + mode, "train.max_length=32", "train.max_steps=4", "checkpoint.save_steps=2"};
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

void check_same_ends(const RunDirectory& run, const std::string& a, const std::string& b) {
  CHECK(run.metrics(a) == run.metrics(b));
  check_same_state(run.checkpoint(a, 4), run.checkpoint(b, 4));
}

void check_losses(const RunDirectory& run, const std::string& a, const std::string& b, double tolerance) {
  const auto got = run.metrics(a), want = run.metrics(b);
  REQUIRE(got.size() == want.size());
  for (std::size_t i = 0; i < got.size(); ++i)
    for (const char* key : {"loss", "grad_norm"}) {
      const double have = got[i].at(key), expected = want[i].at(key);
      INFO(a << ", step " << i + 1 << ", " << key << ": " << have << ", expected " << expected);
      CHECK(std::abs(have - expected) <= tolerance * std::abs(expected));
    }
}

}  // namespace

TEST_CASE("fp8: every ZeRO stage gives the losses of one rank, and without accumulation all stages the same bits") {
  for (const char* mode : {"linear", "all"}) {
    INFO(mode);
    const RunDirectory run("full-untied-llama3rope");
    // The blocks of transposed operands span the tokens of a micro-batch: one rank has the same micro-batches.
    const Names rows = {"train.global_batch_size=4", "train.per_device_train_batch_size=2"};
    const auto at_stage = [&](const char* stage) {
      return in_fp8(mode,
                    {rows[0], rows[1], std::string("distributed.zero_stage=") + stage, "distributed.overlap=true"});
    };
    run.train_to_end("one", in_fp8(mode, rows));
    for (const char* stage : {"0", "1", "2", "3"}) run.train_to_end(stage, at_stage(stage), {}, 2);
    check_same_ends(run, "0", "1");
    check_same_ends(run, "0", "2");
    check_same_ends(run, "0", "3");
    // f32 gradients are summed in another order. A weight that differs by 1e-7 may get another code, 6 % away, in the
    // next step: one of 10^4 codes changes a product by 1e-3 of its rounding error, which is 4 %.
    check_losses(run, "2", "one", 1e-4);
  }
}

namespace {

/// Trains a model of three layers, whose matrices are all in FP8, at stages 2 and 3, and compares the ends.
void check_stage_3(const RunDirectory& run, const std::string& mode, int ranks, const Names& more,
                   const DatasetOptions& held_out = {.vocab_size = 272, .eos_token_id = 257}) {
  CAPTURE(mode, ranks, more);
  make_dataset(run / "held-out", {random_documents(3, 32, 1, static_cast<std::int32_t>(held_out.eos_token_id))},
               held_out);
  for (const char* stage : {"2", "3"}) {
    Names all = {"train.fp8=" + mode,
                 "init_from=null",
                 "model.num_hidden_layers=3",
                 "model.hidden_size=48",
                 "model.num_attention_heads=16",
                 "model.num_key_value_heads=8",
                 "model.head_dim=8",
                 "train.max_length=32",
                 "train.max_steps=4",
                 "train.global_batch_size=4",
                 "train.per_device_train_batch_size=1",
                 "checkpoint.save_steps=4",
                 "data.eval_path=held-out",
                 "train.eval_steps=2",
                 "distributed.overlap=true",
                 std::string("distributed.zero_stage=") + stage};
    all.insert(all.end(), more.begin(), more.end());
    run.train_to_end(stage, all, {}, ranks);
  }
  check_same_ends(run, "2", "3");
}

}  // namespace

TEST_CASE("fp8: ZeRO stage 3 gives the bits of stage 2 on 1, 2 and 4 ranks, with and without accumulation") {
  const RunDirectory run("full-untied-llama3rope");
  SECTION("1") { check_stage_3(run, "linear", 1, {}); }
  SECTION("2") { check_stage_3(run, "all", 2, {}); }
  SECTION("4") { check_stage_3(run, "all", 4, {}); }
}

TEST_CASE("fp8: ZeRO stage 3 gives the bits of stage 2 with widths that are no multiples of 16") {
  const RunDirectory run("full-untied-llama3rope");
  // A vocabulary of bytes.
  const DatasetOptions bytes{.vocab_size = 257, .eos_token_id = 256};
  make_dataset(run / "bytes", {random_documents(40, 32, 2)}, bytes);
  const auto widths = [](const Names& model) {
    return with({"model.vocab_size=257", "model.eos_token_id=256", "data.path=bytes"}, model);
  };
  // 196 outputs; the matrices after it begin at multiples of 256 bytes.
  SECTION("12 heads") {
    check_stage_3(run, "all", 2, widths({"model.num_attention_heads=12", "model.num_key_value_heads=4"}), bytes);
  }
  // 267 outputs; the matrices after it do not.
  SECTION("9 heads") {
    check_stage_3(run, "all", 4,
                  widths({"model.num_attention_heads=9", "model.num_key_value_heads=3", "model.head_dim=16"}), bytes);
  }
  SECTION("recomputed, with exclusions") {
    check_stage_3(run, "all", 2,
                  widths({"model.num_attention_heads=12", "model.num_key_value_heads=4",
                          "train.gradient_checkpointing=full", R"(train.fp8_exclude=["layers.1.o_proj"])"}),
                  bytes);
  }
}

TEST_CASE("fp8: ZeRO stage 3 gives the bits of stage 2 with recomputed activations") {
  SECTION("full") { check_stage_3(RunDirectory("ssa-sparse-stream"), "all", 2, {"train.gradient_checkpointing=full"}); }
  SECTION("selective") {
    check_stage_3(RunDirectory("moba"), "linear", 2,
                  {"train.gradient_checkpointing=selective", "distributed.overlap=false"});
  }
}

TEST_CASE("fp8: ZeRO stage 3 gives the bits of stage 2 with exclusions, groups of ranks and document masks") {
  SECTION("exclusions") {
    check_stage_3(RunDirectory("nsa"), "linear", 2,
                  {R"(train.fp8_exclude=["layers.0.o_proj","layers.1","layers.2.qkvg_proj","layers.2.down_proj"])"});
  }
  SECTION("groups") { check_stage_3(RunDirectory("full"), "linear", 4, {"distributed.shard_size=2"}); }
  SECTION("masks") { check_stage_3(RunDirectory("ssa-document-mask"), "all", 2, {}); }
}

TEST_CASE("fp8: recomputed activations give the same bits, with every method") {
  for (const char* method : {"ssa-sparse-stream", "full", "moba", "nsa"}) {
    INFO(method);
    const RunDirectory run(method);
    for (const char* kept : {"none", "selective", "full"})
      run.train_to_end(kept, in_fp8("all", {std::string("train.gradient_checkpointing=") + kept}));
    check_same_ends(run, "none", "selective");
    check_same_ends(run, "none", "full");
  }
}

TEST_CASE("fp8: a run with document masks resumes to the bit, and has the losses of one without FP8") {
  const RunDirectory run("ssa-document-mask");
  run.train_to_end("none", {"train.max_length=32", "train.max_steps=4", "checkpoint.save_steps=2"});
  for (const char* mode : {"linear", "all"}) {
    INFO(mode);
    const std::string again = std::string(mode) + "-again";
    run.train_to_end(mode, in_fp8(mode, {}));
    run.train_to_end(again, in_fp8(mode, {}), {"--resume", run.checkpoint(mode, 2).string()});
    check_same_state(run.checkpoint(again, 4), run.checkpoint(mode, 4));
    // Rounding changes the logits by 4 % of their size, and the loss, of about 5.6, by far less in four steps.
    const double got = run.metrics(mode).back().at("ce_loss"), want = run.metrics("none").back().at("ce_loss");
    CHECK(got != want);
    CHECK(got == Approx(want).epsilon(0.01));
  }
}
