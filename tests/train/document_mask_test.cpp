// Runs with data.document_mask. tests/model shows that packed documents compute what each computes alone, tests/golden
// that training does.
#include <cmath>

#include "ssa/data/packing.h"
#include "support/make_dataset.h"
#include "train/run_directory.h"

using namespace ssa;
using namespace ssa::test;

TEST_CASE("document mask: a run resumes bit for bit, and two ranks give the losses of one, with every packing") {
  const RunDirectory run("ssa-document-mask");
  for (const Packing packing : kPackings) {
    const std::string name(name_of(packing));
    INFO(name);
    const Names set = {"data.packing=" + name,
                       "data.shuffle=true",
                       "data.eval_path=data",
                       "train.eval_steps=2",
                       "train.attention_stats_steps=2",
                       "train.global_batch_size=4",
                       "attention.full_stream_probability=0.5",
                       "checkpoint.save_steps=2",
                       "train.max_steps=4"};
    run.train_to_end(name, set);
    const auto whole = run.metrics(name);
    REQUIRE(whole.size() == 4);
    run.train_to_end(name + "-again", set, {"--resume", run.checkpoint(name, 2).string()});
    check_same_state(run.checkpoint(name + "-again", 4), run.checkpoint(name, 4));
    run.train_to_end(name + "-two", set, {}, 2);
    const auto two = run.metrics(name + "-two");
    REQUIRE(two.size() == 4);
    for (std::size_t i = 0; i < whole.size(); ++i) {
      CHECK(two[i].at("rows") == whole[i].at("rows"));
      for (const char* key : {"ce_loss", "alignment_loss", "grad_norm"}) {
        const double want = whole[i].at(key), have = two[i].at(key);
        INFO("step " << i + 1 << ", " << key << ": " << have << ", expected " << want);
        // f32 gradients are summed in another order, and 4 updates propagate the difference.
        CHECK(std::abs(have - want) <= 1e-5 * std::abs(want));
      }
    }
  }
  // Without the mask the same steps have other losses, and the mask may not change unnoticed.
  check_fails(run.train("greedy", {"data.document_mask=false", "data.shuffle=true", "train.max_steps=6"}), kExitUsage,
              {"data.document_mask: true in the checkpoint, false now"});
  run.train_to_end("crossing", {"data.document_mask=false", "train.max_steps=1"});
  run.train_to_end("masked", {"train.max_steps=1"});
  CHECK(run.metrics("crossing")[0].at("ce_loss") != run.metrics("masked")[0].at("ce_loss"));
}

TEST_CASE("document mask: --dry-run and the log state the padding and the tokens attended to") {
  const RunDirectory run("ssa-document-mask");
  // Blocks of 4 tokens, rows of 60. Documents of 29 and 13 tokens: 32 + 13. Of 40: alone.
  Documents documents = {TokenIds(29, 1), TokenIds(13, 2), TokenIds(40, 3)};
  for (TokenIds& document : documents) document.back() = 257;
  make_dataset(run / "d", {documents}, {.vocab_size = 258, .eos_token_id = 257});
  const Names set = {"data.path=d", "train.max_length=60", "train.max_steps=1", "train.per_device_train_batch_size=1",
                     "train.gradient_accumulation_steps=1"};
  const ProgramResult dry = run.train("out", set, {"--dry-run"});
  INFO(dry.out << dry.err);
  REQUIRE(dry.exit_code == 0);
  const std::string greedy =
      "packing greedy: 2 rows, 31.67 % padding, 0.00 % of documents cut; with the document mask a token attends to at "
      "most "
      "16.4 tokens on average, 30.5 without it";  // (29 * 30 + 13 * 14 + 40 * 41) / 2 / 82 tokens
  CHECK_THAT(dry.out, has(greedy));
  CHECK_THAT(dry.out, has("data.document_mask = true"));
  run.train_to_end("out", set);
  CHECK_THAT(ssa::read_file(run / "out/train.log"), has("data: " + greedy));
}
