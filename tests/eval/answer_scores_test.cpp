// Scores and prompts of tasks whose answers are generated. tests/eval/answer_cases.jsonl has the harness's; its
// generator is make_answer_cases.py.
#include "ssa/eval/answer_scores.h"

#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "ssa/data/json_fields.h"
#include "ssa/eval/generation_task.h"
#include "support/catch.h"
#include "support/error_of.h"
#include "support/paths.h"
#include "support/temp_dir.h"

using namespace ssa;
using namespace ssa::eval;
using namespace ssa::test;

namespace {

using Json = nlohmann::json;

std::vector<Json> cases_with(const char* key) {
  std::vector<Json> cases;
  std::istringstream lines(ssa::read_file(source_dir() / "tests/eval/answer_cases.jsonl"));
  for (std::string line; std::getline(lines, line);)
    if (Json one = Json::parse(line); one.contains(key)) cases.push_back(std::move(one));
  return cases;
}

Document document_of(const Json& one) {
  return generation_document(*find_generation_rule(one["task"]), JsonFields(one["document"], "case"));
}

Document document_of(const std::string& task, const Json& document) {
  return document_of({{"task", task}, {"document", document}});
}

}  // namespace

TEST_CASE("scores of generated answers equal the harness's bit for bit") {
  const std::vector<Json> cases = cases_with("scores");
  CHECK(cases.size() > 100);
  for (const Json& one : cases) {
    INFO(one.dump());
    const GenerationRule& rule = *find_generation_rule(one["task"]);
    const Document document = document_of(one);
    const double score = answer_score(rule, document, one["text"].get<std::string>());
    std::set<std::string> names;
    for (const auto& [name, value] : one["scores"].items()) {
      CHECK(score == value.get<double>());
      names.insert(name);
    }
    const std::vector<std::string> ours = metric_names(rule, document);
    CHECK(std::set(ours.begin(), ours.end()) == names);
  }
}

TEST_CASE("prompts, stops and lengths of RULER and LongBench equal the harness's") {
  std::set<std::string> tasks;
  for (const Json& one : cases_with("prompt")) {
    INFO(one.dump());
    const GenerationRule& rule = *find_generation_rule(one["task"]);
    CHECK(document_of(one).query == one["prompt"].get<std::string>());
    CHECK(rule.until == one["until"].get<std::vector<std::string>>());
    CHECK(rule.max_new_tokens == one["max_gen_toks"].get<std::int64_t>());
    tasks.insert(rule.name);
  }
  CHECK(tasks.size() == generation_rules().size());
  CHECK(tasks.size() == 13 + 16 + 13);
}

TEST_CASE("a document of RULER counts for its max_length, or for the length that it fits") {
  const auto length = [](Json document) {
    document.update({{"input", "x"}, {"outputs", {"y"}}});
    return document_of("niah_single_2", document).length;
  };
  CHECK(length({{"length", 3990}, {"max_length", 500}}) == 500);
  CHECK(length({{"length", 1}}) == 4096);
  CHECK(length({{"length", 4096}}) == 4096);
  CHECK(length({{"length", 4097}}) == 8192);
  CHECK(length({{"length", 131072}}) == 131072);
  const GenerationRule& rule = *find_generation_rule("niah_single_2");
  CHECK_FALSE(has_standard_error(rule, "4096"));
  CHECK(has_standard_error(rule, "2000"));
  CHECK(has_standard_error(*find_generation_rule("longbench_lcc"), "score"));
  check_error(error_of([&] { length({{"length", 131073}}); }), "case: length is 131073", "131072", "max_length");
}

TEST_CASE("groups of tasks, and the Chinese tasks that are not supported") {
  CHECK(tasks_of("ruler").size() == 13);
  CHECK(tasks_of("longbench").size() == 16);
  CHECK(tasks_of("longbench_e").size() == 13);
  CHECK(tasks_of("longbench_e").at(0) == "longbench_qasper_e");
  CHECK(tasks_of("piqa") == std::vector<std::string>{"piqa"});
  CHECK(find_generation_rule("piqa") == nullptr);
  const TempDir dir;
  for (const char* name : {"dureader", "lsht", "multifieldqa_zh", "passage_retrieval_zh", "vcsum"})
    check_error(error_of([&] { load_task(concat("longbench_", name), "", dir.path()); }), concat("longbench_", name),
                "Chinese");
  check_error(error_of([&] { load_task("longbench_hotpot", "", dir.path()); }), "no such task", "ruler, longbench",
              "docs/tasks.md");
}

TEST_CASE("files of RULER and LongBench are found in their published layouts") {
  const TempDir dir;
  const auto find = [&](const std::string& task, const char* file, const Json& document) {
    std::filesystem::create_directories((dir / file).parent_path());
    ssa::test::write_file(dir / file, document.dump() + "\n");
    const Task loaded = load_task(task, "", dir.path());
    CHECK(loaded.kind == TaskKind::generation);
    CHECK(loaded.documents.size() == 1);
    CHECK(loaded.file == dir / file);
  };
  const Json ruler = {{"input", "x"}, {"outputs", {"y"}}, {"length", 5}};
  find("ruler_qa_squad", "qa_1/validation.jsonl", ruler);
  find("ruler_qa_squad", "ruler_qa_squad.jsonl", ruler);
  find("niah_single_2", "niah_single_2/validation.jsonl", ruler);
  const Json question = {{"input", "x"}, {"context", "y"}, {"answers", {"z"}}};
  find("longbench_hotpotqa", "hotpotqa.jsonl", question);
  find("longbench_hotpotqa_e", "hotpotqa_e.jsonl", question);
}

TEST_CASE("malformed documents of RULER and LongBench are errors that name the line and the field") {
  const TempDir dir;
  const auto complaint = [&](const std::string& task, Json json, const std::function<void(Json&)>& damage) {
    const Json good = json;
    damage(json);
    ssa::test::write_file(dir / "bad.jsonl", good.dump() + "\n" + json.dump() + "\n");
    return error_of([&] { read_documents(task, dir / "bad.jsonl"); });
  };
  const Json ruler = {{"input", "x"}, {"outputs", {"y"}}, {"max_length", 4096}};
  for (const char* key : {"input", "outputs"})
    check_error(complaint("ruler_vt", ruler, [&](Json& d) { d.erase(key); }), "bad.jsonl: line 2", key);
  check_error(complaint("ruler_vt", ruler, [](Json& d) { d.erase("max_length"); }), "line 2", "length");
  check_error(complaint("ruler_vt", ruler, [](Json& d) { d["outputs"] = "y"; }), "line 2", "outputs",
              "array of strings");
  check_error(complaint("ruler_vt", ruler, [](Json& d) { d["gen_prefix"] = 3; }), "line 2", "gen_prefix is a number");
  const Json trec = {{"context", "x"}, {"input", "q"}, {"answers", {"y"}}, {"all_classes", {"y", "z"}}};
  for (const char* key : {"context", "input", "answers", "all_classes"})
    check_error(complaint("longbench_trec", trec, [&](Json& d) { d.erase(key); }), "bad.jsonl: line 2", key);
  check_error(complaint("longbench_trec", trec, [](Json& d) { d["all_classes"] = nullptr; }), "line 2", "all_classes");
  check_error(complaint("longbench_trec", trec, [](Json& d) { d["answers"] = Json::array(); }), "line 2", "answers");
  const Json paragraph = {{"context", "x"}, {"input", "q"}, {"answers", {"Paragraph 3"}}};
  check_error(
      complaint("longbench_passage_retrieval_en", paragraph, [](Json& d) { d["answers"] = {"Paragraph three"}; }),
      "line 2", "Paragraph three", "Paragraph N");
}
