#include "ssa/eval/report.h"

#include "eval/byte_model.h"

using namespace ssa;
using namespace ssa::eval;
using namespace ssa::test;

namespace {

TaskResult result(const std::string& task, double acc) {
  return {.task = task,
          .dataset = task + ".jsonl",
          .output_type = "multiple_choice",
          .num_fewshot = 2,
          .documents = 100,
          .evaluated = 10,
          .metrics = {{.name = "acc", .value = acc, .standard_error = 0.05},
                      {.name = "word_perplexity", .value = 12.5, .higher_is_better = false}}};
}

Report report(const std::string& mode, std::vector<std::int64_t> seeds = {1234}) {
  const ByteModel model;
  Report all({.model = "runs/x", .method = "ssa", .device = "cpu", .rows = 8, .max_length = 64, .seeds = seeds});
  for (const Setting& setting : settings_of(model.source(), {.mode = mode})) {
    all.begin(setting);
    all.add(result("arc_easy", setting.sparse() ? 0.25 : 0.5));
  }
  return all;
}

}  // namespace

TEST_CASE("the table has one line per metric, in aligned columns") {
  CHECK(report("both").table() ==
        "| task     | shots | attention  | metric          |   value | stderr |\n"
        "|----------|-------|------------|-----------------|---------|--------|\n"
        "| arc_easy |     2 | sparse 3x4 | acc             |  0.2500 | 0.0500 |\n"
        "|          |       |            | word_perplexity | 12.5000 |        |\n"
        "| arc_easy |     2 | full       | acc             |  0.5000 | 0.0500 |\n"
        "|          |       |            | word_perplexity | 12.5000 |        |\n");
}

TEST_CASE("the JSON of one setting has the keys of lm-evaluation-harness's results") {
  const nlohmann::json document = report("sparse").json();
  REQUIRE(document.is_object());
  CHECK(document["results"]["arc_easy"] == nlohmann::json{{"name", "arc_easy"},
                                                          {"alias", "arc_easy"},
                                                          {"sample_len", 10},
                                                          {"acc,none", 0.25},
                                                          {"acc_stderr,none", 0.05},
                                                          {"word_perplexity,none", 12.5},
                                                          {"word_perplexity_stderr,none", "N/A"}});
  CHECK(document["n-samples"]["arc_easy"] == nlohmann::json{{"original", 100}, {"effective", 10}});
  CHECK(document["n-shot"]["arc_easy"] == 2);
  CHECK(document["higher_is_better"]["arc_easy"] == nlohmann::json{{"acc", true}, {"word_perplexity", false}});
  CHECK(document["configs"]["arc_easy"]["output_type"] == "multiple_choice");
  CHECK(document["config"]["model_args"] ==
        nlohmann::json{
            {"pretrained", "runs/x"}, {"method", "ssa"}, {"mode", "sparse"}, {"block_size", 4}, {"block_counts", 3}});
  CHECK_FALSE(document.contains("samples"));
}

TEST_CASE("several settings give an array of documents, which can have attached keys") {
  Report all = report("both");
  all.attach("attention", {{"layers", 2}});
  const nlohmann::json documents = all.json();
  REQUIRE(documents.is_array());
  REQUIRE(documents.size() == 2);
  CHECK(documents[0]["results"]["arc_easy"]["acc,none"] == 0.25);
  CHECK(documents[1]["config"]["model_args"]["mode"] == "full");
  CHECK_FALSE(documents[1]["config"]["model_args"].contains("block_counts"));
  CHECK(documents[1]["attention"]["layers"] == 2);
  CHECK_FALSE(documents[0].contains("attention"));
}

TEST_CASE("several seeds add a deviation column and value") {
  const ByteModel model;
  Report all({.model = "m", .method = "ssa", .device = "cpu", .rows = 1, .max_length = 64, .seeds = {1, 2}});
  all.begin(settings_of(model.source(), {.mode = "full"})[0]);
  TaskResult one = result("piqa", 0.5);
  one.metrics.resize(1);
  one.metrics[0].deviation = 0.125;
  all.add(one);
  CHECK(all.table().find("| deviation |\n") != std::string::npos);
  CHECK(all.table().find("| 0.5000 | 0.0500 |    0.1250 |\n") != std::string::npos);
  CHECK(all.json()["results"]["piqa"]["acc_std,none"] == 0.125);
}
