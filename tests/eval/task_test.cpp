// Expected prompts, targets and few-shot draws are lm-evaluation-harness 0.4.13's for the same documents.
#include "ssa/eval/task.h"

#include <nlohmann/json.hpp>

#include "support/catch.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

using namespace ssa;
using namespace ssa::eval;
using namespace ssa::test;

namespace {

using Json = nlohmann::json;
using Texts = std::vector<std::string>;

std::string lines(const std::vector<Json>& documents) {
  std::string text;
  for (const Json& document : documents) text += document.dump() + "\n";
  return text;
}

/// Writes a file of this one document and reads it.
Document document(const std::string& task, const Json& json) {
  const TempDir dir;
  ssa::test::write_file(dir / "one.jsonl", lines({json}));
  return read_documents(task, dir / "one.jsonl").at(0);
}

const Json kArc = {{"id", "a"},
                   {"question", "Which melts?"},
                   {"choices", {{"text", {"ice", "iron", "salt"}}, {"label", {"1", "2", "3"}}}},
                   {"answerKey", "2"}};
const Json kPiqa = {{"goal", "To cool tea,"}, {"sol1", "wait."}, {"sol2", "heat it."}, {"label", 0}};
const Json kHellaSwag = {{"activity_label", "Baking"},
                         {"ctx_a", "[header] How to  bake [title] First"},
                         {"ctx_b", "éMILE stands."},
                         {"endings", {"he  [step] waits.", "he [x\n] sits ", "it\u00a0melts."}},
                         {"label", "2"}};

}  // namespace

TEST_CASE("ARC: prompt, choices, and the answer found by its label") {
  const Document d = document("arc_easy", kArc);
  CHECK(d.query == "Question: Which melts?\nAnswer:");
  CHECK(d.choices == Texts{"ice", "iron", "salt"});
  CHECK(d.gold == 1);
  const Json original = {{"id", "a"},
                         {"question",
                          {{"stem", "Which melts?"},
                           {"choices", {{{"text", "ice"}, {"label", "A"}}, {{"text", "iron"}, {"label", "B"}}}}}},
                         {"answerKey", "A"}};
  CHECK(document("arc_challenge", original).query == d.query);
  CHECK(document("arc_challenge", original).gold == 0);
}

TEST_CASE("PIQA: prompt from the goal, choices from the two solutions") {
  const Document d = document("piqa", kPiqa);
  CHECK(d.query == "Question: To cool tea,\nAnswer:");
  CHECK(d.choices == Texts{"wait.", "heat it."});
  CHECK(d.gold == 0);
}

TEST_CASE("HellaSwag: contexts are joined, capitalized and cleaned of WikiHow's brackets") {
  const Document d = document("hellaswag", kHellaSwag);
  CHECK(d.query == "Baking: How to bake. First Émile stands.");
  CHECK(d.choices == Texts{"he  waits.", "he [x\n] sits", "it\u00a0melts."});
  CHECK(d.gold == 2);
}

TEST_CASE("LAMBADA: the last word is the target") {
  const Document d = document("lambada", {{"text", "She said  that \"it\""}});
  CHECK(d.query == "She said  that");
  CHECK(d.target == " \"it\"");
  const Document word = document("lambada_standard", {{"text", "alone"}});
  CHECK(word.query.empty());
  CHECK(word.target == " alone");
}

TEST_CASE("rendered documents are read, and a file can be one JSON array") {
  const Json rendered = {{"id", "a"}, {"query", "Question: Q\nAnswer:"}, {"choices", {"x", "y"}}, {"gold", 1}};
  const TempDir dir;
  ssa::test::write_file(dir / "all.json", Json::array({rendered, kArc}).dump(1));
  const std::vector<Document> all = read_documents("arc_easy", dir / "all.json");
  REQUIRE(all.size() == 2);
  CHECK(all[0].query == "Question: Q\nAnswer:");
  CHECK(all[0].gold == 1);
  CHECK(all[1].gold == 1);
}

TEST_CASE("WikiText is split into pages and detokenized") {
  const std::string first = " \n = Robert = \n \n = = Career = = \n He acts . \n", second = " = Du Fu = \n A poet .";
  CHECK(wikitext_pages(first + second) == Texts{" = Robert = \n \n = = Career = = \n He acts . ", second});
  CHECK(wikitext_pages("no heading") == Texts{"no heading"});
  CHECK(wikitext_detokenize(" = A = \n \n It \" x \" ( y , z ) [ q] ' s ' 1 @,@ 000 @.@ 5 @-@ a . B ! C ; d : e ? the "
                            "boys ' toys N \u00b0 \n /' 5/ = = = = x = = {  k  }\n") ==
        " = A =\n\nIt \"x\" (y, z) [q]'s' 1,000.5-a. B! C; d: e? the boys'toys N\u00b0\n/'[0-9]/ ==== x == {k}\n");
}

TEST_CASE("WikiText is also read as JSON lines with a page each") {
  const TempDir dir;
  const std::string first = " = Robert = \n \n = = Career = = \n He acts . \n", second = " = Du Fu = \n A poet .";
  ssa::test::write_file(dir / "wikitext.jsonl", lines({{{"page", first}}, {{"page", second}}}));
  ssa::test::write_file(dir / "pages.txt", lines({{{"page", first}}, {{"page", second}}}));
  ssa::test::write_file(dir / "raw.txt", first + second);
  const Task raw = load_task("wikitext", dir / "raw.txt", "");
  for (const Task& task : {load_task("wikitext", "", dir.path()), load_task("wikitext", dir / "pages.txt", "")}) {
    REQUIRE(task.documents.size() == 2);
    CHECK(task.documents[0].target == first);
    CHECK(task.documents[0].query == wikitext_detokenize(first));
    CHECK(task.documents[1].target == raw.documents[1].target);
    CHECK(task.documents[1].query == raw.documents[1].query);
  }
  ssa::test::write_file(dir / "bad.jsonl", lines({{{"page", first}}, {{"text", second}}}));
  check_error(error_of([&] { load_task("wikitext", dir / "bad.jsonl", ""); }), "bad.jsonl: line 2", "no key page");
}

TEST_CASE("few-shot examples equal the harness's draws for the same seed") {
  const TempDir dir;
  const auto arc = [](int i) {
    const std::string n = std::to_string(i);
    return Json{{"id", n},
                {"question", concat("q", n)},
                {"choices", {{"text", {concat("x", n), concat("y", n)}}, {"label", {"A", "B"}}}},
                {"answerKey", i % 2 ? "B" : "A"}};
  };
  const auto piqa = [](int i) {
    return Json{{"goal", concat("g", i)}, {"sol1", "a"}, {"sol2", "b"}, {"label", i % 2}};
  };
  std::vector<Json> documents, pool;
  for (int i = 0; i < 4; ++i) documents.push_back(arc(i));
  for (int i = 10; i < 40; ++i) pool.push_back(arc(i));
  ssa::test::write_file(dir / "arc_easy.jsonl", lines(documents));
  ssa::test::write_file(dir / "arc_easy_train.jsonl", lines(pool));
  ssa::test::write_file(dir / "piqa.jsonl", lines({piqa(0), piqa(1), piqa(2)}));
  ssa::test::write_file(dir / "piqa_train.jsonl",
                        lines({piqa(0), piqa(1), piqa(2), piqa(3), piqa(0), piqa(0), piqa(0)}));
  documents.clear();
  for (const char* n : {"0", "1", "2", "3"}) documents.push_back({{"text", concat("w", n, " and v", n)}});
  ssa::test::write_file(dir / "lambada_openai.jsonl", lines(documents));

  const auto contexts = [&](const std::string& name) {
    const Task task = load_task(name, "", dir.path());
    PythonRandom random(7);
    Texts all;
    for (const Document& d : task.documents) all.push_back(fewshot_context(task, d, 2, random));
    return all;
  };
  CHECK(contexts("arc_easy") ==
        Texts{"Question: q20\nAnswer: x20\n\nQuestion: q14\nAnswer: x14\n\nQuestion: q0\nAnswer:",
              "Question: q22\nAnswer: x22\n\nQuestion: q30\nAnswer: x30\n\nQuestion: q1\nAnswer:",
              "Question: q11\nAnswer: y11\n\nQuestion: q12\nAnswer: x12\n\nQuestion: q2\nAnswer:",
              "Question: q36\nAnswer: x36\n\nQuestion: q27\nAnswer: y27\n\nQuestion: q3\nAnswer:"});
  // The document itself is never among its examples, even if the pool has copies of it.
  CHECK(contexts("piqa") == Texts{"Question: g2\nAnswer: a\n\nQuestion: g1\nAnswer: b\n\nQuestion: g0\nAnswer:",
                                  "Question: g0\nAnswer: a\n\nQuestion: g0\nAnswer: a\n\nQuestion: g1\nAnswer:",
                                  "Question: g0\nAnswer: a\n\nQuestion: g0\nAnswer: a\n\nQuestion: g2\nAnswer:"});
  CHECK(contexts("lambada") == Texts{"w2 and  v2\n\nw0 and  v0\n\nw0 and", "w3 and  v3\n\nw2 and  v2\n\nw1 and",
                                     "w0 and  v0\n\nw3 and  v3\n\nw2 and", "w0 and  v0\n\nw1 and  v1\n\nw3 and"});

  // So too when the pool is the task's own documents.
  const Task alone = load_task("arc_easy", dir / "arc_easy.jsonl", "");
  CHECK(alone.pool.size() == 30);
  std::filesystem::remove(dir / "arc_easy_train.jsonl");
  const Task own = load_task("arc_easy", "", dir.path());
  CHECK(own.pool == own.documents);
  PythonRandom random(1);
  for (int round = 0; round < 20; ++round)
    CHECK(fewshot_context(own, own.documents[1], 3, random).find("q1\nAnswer: ") == std::string::npos);
  check_error(error_of([&] { fewshot_context(own, own.documents[1], 4, random); }), "arc_easy", "4 few-shot",
              "at most 3", "4 documents");
}

TEST_CASE("unknown tasks, missing files and malformed documents are errors that name them") {
  const TempDir dir;
  check_error(error_of([&] { load_task("arc_esy", "", dir.path()); }), "arc_esy", "no such task", "arc_easy",
              "wikitext");
  check_error(error_of([&] { load_task("piqa", "", dir.path()); }), dir.path().string(), "piqa", "piqa.jsonl");
  check_error(error_of([&] { load_task("piqa", dir / "none.jsonl", ""); }), "none.jsonl", "no such file");

  const auto complaint = [&](const std::string& task, Json json, const std::function<void(Json&)>& damage) {
    const Json good = json;
    damage(json);
    ssa::test::write_file(dir / "bad.jsonl", lines({good, json}));
    return error_of([&] { read_documents(task, dir / "bad.jsonl"); });
  };
  for (const char* key : {"question", "choices", "answerKey"})
    check_error(complaint("arc_easy", kArc, [&](Json& d) { d.erase(key); }), "bad.jsonl: line 2", key);
  for (const char* key : {"goal", "sol1", "sol2", "label"})
    check_error(complaint("piqa", kPiqa, [&](Json& d) { d.erase(key); }), "bad.jsonl: line 2", key);
  for (const char* key : {"activity_label", "ctx_a", "ctx_b", "endings", "label"})
    check_error(complaint("hellaswag", kHellaSwag, [&](Json& d) { d.erase(key); }), "bad.jsonl: line 2", key);
  check_error(complaint("lambada", {{"text", "a b"}}, [](Json& d) { d["text"] = 3; }), "line 2", "text is a number");
  check_error(complaint("lambada", {{"text", "a b"}}, [](Json& d) { d["text"] = ""; }), "line 2", "text is empty");
  check_error(complaint("wikitext", {{"page", "a b"}}, [](Json& d) { d["page"] = "\n"; }), "line 2", "page is empty");
  check_error(complaint("arc_easy", kArc, [](Json& d) { d["answerKey"] = "D"; }), "line 2", "answerKey is \"D\"");
  check_error(complaint("arc_easy", kArc, [](Json& d) { d["choices"]["label"] = {"1"}; }), "line 2", "1 labels for 3");
  check_error(complaint("piqa", kPiqa, [](Json& d) { d["label"] = 2; }), "line 2", "label is 2", "0 to 1");
  check_error(complaint("hellaswag", kHellaSwag, [](Json& d) { d["label"] = ""; }), "line 2", "label", "0 to 2");
  check_error(complaint("piqa", kPiqa, [](Json& d) { d["sol1"] = ""; }), "line 2", "empty choice");

  ssa::test::write_file(dir / "bad.jsonl", kPiqa.dump() + "\n{\"goal\": ");
  check_error(error_of([&] { read_documents("piqa", dir / "bad.jsonl"); }), "bad.jsonl: line 2", "not valid JSON");
  replace_file(dir / "bad.jsonl", R"({"goal": "g", "sol1": "a", "sol2": "b", "label": 0, "label": 1})");
  check_error(error_of([&] { read_documents("piqa", dir / "bad.jsonl"); }),
              "bad.jsonl: line 1: label: given twice, expected once", "");
  ssa::test::write_file(dir / "bad.jsonl", "\n \n");
  check_error(error_of([&] { read_documents("piqa", dir / "bad.jsonl"); }), "bad.jsonl", "no documents");
  ssa::test::write_file(dir / "bad.jsonl", "\xff");
  check_error(error_of([&] { read_documents("piqa", dir / "bad.jsonl"); }), "bad.jsonl", "not UTF-8 at byte 0");
}
