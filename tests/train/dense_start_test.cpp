// Runs that start from the weights of a dense LLaMA, or of a model whose files do not name its method.
// tests/golden/dense is a LlamaForCausalLM that transformers saved; expected.json has the losses that it computes in
// float64 for 48 tokens.
#include <cmath>

#include "support/error_of.h"
#include "support/make_dataset.h"
#include "train/run_directory.h"

using namespace ssa;
using namespace ssa::test;
using nlohmann::json;

namespace {

const fs::path kDense = ssa::test::source_dir() / "tests/golden/dense";

/// A run whose data is the 48 tokens of expected.json, in every row.
struct DenseRun : RunDirectory {
  double expected = 0;  ///< mean loss

  DenseRun() : RunDirectory("ssa-sparse-stream") {
    fs::copy(kDense, *this / "dense");
    const json file = json::parse(ssa::read_file(kDense / "expected.json"));
    for (const double loss : file["losses"]) expected += loss / static_cast<double>(file["losses"].size());
    const Documents documents(40, file["ids"].get<TokenIds>());
    fs::remove_all(*this / "data");
    make_dataset(*this / "data", {documents}, {.vocab_size = 64, .eos_token_id = 0, .json = false});
  }

  Names overrides(const std::string& method, const Names& more = {}) const {
    Names all = {"model=dense/config.json",   "init_from=dense",      "attention.method=" + method,
                 "model.block_size=4",        "model.block_counts=2", "train.max_length=48",
                 "attention.selection=exact", "train.max_steps=3",    "train.warmup_steps=0",
                 "checkpoint.save_steps=0"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
};

}  // namespace

TEST_CASE("dense start: full attention computes the loss of the dense model") {
  const DenseRun run;
  for (const Names& method :
       {Names{"ssa", "attention.full_stream_probability=1"}, Names{"ssa", "attention.dense_warmup_steps=1"},
        Names{"ssa", "attention.dense_warmup_steps=1", "attention.stream_granularity=row"}, Names{"full"}}) {
    fs::remove_all(run / "out");
    const Names more(method.begin() + 1, method.end());
    const ProgramResult result = run.train("out", run.overrides(method[0], more));
    INFO(method[0] << log_of(result));
    REQUIRE(result.exit_code == kExitDone);
    const json first = run.metrics("out").at(0);
    CHECK(first.at("stream") == "full");
    // float32 against float64.
    CHECK(std::abs(first.at("ce_loss").get<double>() - run.expected) < 1e-5);
    CHECK(log_of(result).find("g_proj is 0, so that every gate is 0.5, and v_proj is multiplied by 2") !=
          std::string::npos);
  }
  // The sparse output differs: the comparison above is not of equal things.
  run.train_to_end("sparse", run.overrides("moba"));
  CHECK(std::abs(run.metrics("sparse").at(0).at("ce_loss").get<double>() - run.expected) > 1e-3);
  const ProgramResult nsa = run.train("nsa", run.overrides("nsa", {"model.window_size=8"}));
  CHECK(nsa.exit_code == kExitDone);
  CHECK(log_of(nsa).find("v_proj is multiplied by 0.666667: attention is the mean of its branches") !=
        std::string::npos);
}

TEST_CASE("dense start: dense_warmup_steps passes the output of full attention on in the first steps only") {
  const DenseRun run;
  for (const std::string granularity : {"step", "row"}) {
    run.train_to_end(granularity,
                     run.overrides("ssa", {"attention.dense_warmup_steps=2", "attention.full_stream_probability=0",
                                           "attention.stream_granularity=" + granularity}));
    const auto metrics = run.metrics(granularity);
    CHECK(metrics.at(0).at("stream") == "full");
    CHECK(metrics.at(1).at("stream") == "full");
    CHECK(metrics.at(2).at("stream") == (granularity == "row" ? "mixed" : "sparse"));
    for (const json& line : metrics) CHECK(line.at("alignment_loss").get<double>() > 0);
  }
}

TEST_CASE("dense start: evaluated as it is") {
  const DenseRun run;
  const auto loss = [&](const Arguments& more) {
    Arguments all = {"ssa_eval",     "--model", "dense",  "--data", "data",     "--device",    "cpu",
                     "--max-length", "48",      "--mode", "full",   "--output", "results.json"};
    all.insert(all.end(), more.begin(), more.end());
    const ProgramResult result = run_program(all, {.directory = run.path()});
    INFO(log_of(result));
    REQUIRE(result.exit_code == kExitDone);
    CHECK(log_of(result).find("a dense LLaMA without gates") != std::string::npos);
    return json::parse(ssa::read_file(run / "results.json"))["results"]["data"]["loss,none"].get<double>();
  };
  CHECK(std::abs(loss({}) - run.expected) < 1e-5);
  CHECK(loss({"--method", "ssa"}) == loss({}));
}

TEST_CASE("init_from: files that name no method or selection, or others than the run's") {
  const RunDirectory run("ssa-sparse-stream");  // its model is published as the 1B set: neither is named
  const json config = json::parse(ssa::read_file(run / "config.json"));
  const auto train = [&](const char* absent, const Names& overrides) {
    json with = config;
    if (absent) with["attention"].erase(absent);
    ssa::test::write_file(run / "config.json", with.dump());
    fs::remove_all(run / "out");
    return run.train("out", overrides);
  };
  check_fails(train("method", {}), kExitUsage,
              {"model/config.json", "names no attention method", "expected attention.method"});
  check_fails(train("selection", {}), kExitUsage,
              {"model/config.json", "names no selection", "expected attention.selection"});
  const ProgramResult given = train(nullptr, {"train.max_steps=1"});
  CHECK(given.exit_code == kExitDone);
  CHECK(log_of(given).find("names no attention method; this run has attention.method ssa") != std::string::npos);
  CHECK(log_of(given).find("names no selection; this run has attention.selection exact") != std::string::npos);

  json model = json::parse(ssa::read_file(run / "model/config.json"));
  model["attention_method"] = "moba";
  model["selection"] = "reference";
  model["rope_theta"] = 10000.0;
  model["bos_token_id"] = nullptr;
  model["eos_token_id"] = 1;
  model["max_position_embeddings"] = 77;
  fs::create_directory(run / "other");
  fs::copy(run / "model/model.safetensors", run / "other/model.safetensors");
  ssa::test::write_file(run / "other/config.json", model.dump());
  check_fails(train("method", {"init_from=other"}), kExitUsage,
              {"other/config.json", "attention method moba", "default is ssa", "expected attention.method"});
  check_fails(train("selection", {"init_from=other"}), kExitUsage, {"selection reference", "default is exact"});
  const ProgramResult changed = train(nullptr, {"init_from=other", "train.max_steps=1"});
  CHECK(changed.exit_code == kExitDone);
  for (const char* part :
       {"this run has attention.method ssa", "this run has attention.selection exact",
        "rope_theta is 10000; this run has model.rope_theta 500000",
        "bos_token_id is null; this run has model.bos_token_id ", "eos_token_id is 1; this run has model.eos_token_id ",
        "max_position_embeddings is 77; this run has model.max_position_embeddings "})
    CHECK(log_of(changed).find(part) != std::string::npos);
  model["num_attention_heads"] = 8;
  model["head_dim"] = 8;
  ssa::test::write_file(run / "other/config.json", model.dump());
  check_fails(train(nullptr, {"init_from=other"}), kExitUsage,
              {"num_attention_heads is 8, expected model.num_attention_heads 4"});
  model["model_type"] = "granite";
  ssa::test::write_file(run / "other/config.json", model.dump());
  check_fails(train(nullptr, {"init_from=other"}), kExitUsage, {"other/config.json", "model_type", "granite"});
}
