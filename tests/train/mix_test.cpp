// Runs on a mix of datasets, and on several evaluation sets.
#include <cmath>
#include <map>
#include <sstream>

#include "ssa/train/trainer_state.h"
#include "support/error_of.h"
#include "support/make_dataset.h"
#include "train/run_directory.h"

using namespace ssa;
using namespace ssa::test;

namespace {

/// `count` documents, of one row of 33 tokens each, which begin with `first` + their number.
void write_documents(const fs::path& directory, std::int64_t count, std::int32_t first) {
  Documents documents(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < documents.size(); ++i) {
    documents[i].assign(33, static_cast<std::int32_t>((static_cast<std::size_t>(first) + i) % 200));
    documents[i].back() = 257;
  }
  fs::remove_all(directory);
  make_dataset(directory, {documents}, {.vocab_size = 258, .eos_token_id = 257});
}

const std::string kThree = R"(data.sources=[{"path": "a", "weight": 1}, {"path": "b", "weight": 3, "name": "bee"}, )"
                           R"({"path": "c/", "weight": 6}])";

/// Sources of 3, 20 and 50 rows.
struct ThreeSources : RunDirectory {
  ThreeSources() : RunDirectory("full") {
    write_documents(*this / "a", 3, 0);
    write_documents(*this / "b", 20, 50);
    write_documents(*this / "c", 50, 100);
  }
};

/// {source: value} of the last line of metrics.jsonl.
std::map<std::string, nlohmann::json> last_of(const RunDirectory& run, const std::string& output, const char* key) {
  std::ifstream stream(run / output / "metrics.jsonl");
  std::string line, last;
  while (std::getline(stream, line)) last = line;
  std::map<std::string, nlohmann::json> values;
  const nlohmann::json parsed = nlohmann::json::parse(last);
  for (const auto& [name, source] : parsed.at("sources").items()) values[name] = source.at(key);
  return values;
}

/// The source of that name in trainer.json.
nlohmann::json saved_source(const fs::path& checkpoint, const std::string& name, const char* list = "sources") {
  const auto trainer = nlohmann::json::parse(ssa::read_file(checkpoint / "trainer.json"));
  for (const auto& source : trainer.at(list))
    if (source.at("name") == name) return source;
  FAIL("no source " << name);
  return {};
}

using Counts = std::map<std::string, nlohmann::json>;

/// The cells of the sources' lines in the table of the mix.
std::vector<std::vector<std::string>> table_of(const std::string& out, const Names& sources = {"a", "bee", "c"}) {
  std::vector<std::vector<std::string>> table;
  std::istringstream lines(out);
  for (std::string line, word; std::getline(lines, line);) {
    std::istringstream words(line);
    std::vector<std::string> cells;
    while (words >> word) cells.push_back(word);
    if (!cells.empty() && cells[0] == "data:") cells.erase(cells.begin());
    if (cells.size() == 8 && std::find(sources.begin(), sources.end(), cells[0]) != sources.end())
      table.push_back(cells);
  }
  return table;
}

}  // namespace

TEST_CASE("mix: a run reads its sources by their weights, and each has its own epochs") {
  const ThreeSources run;
  const Names set = {kThree, "train.max_steps=20", "data.shuffle=true"};
  run.train_to_end("out", set);
  const auto metrics = run.metrics("out");
  REQUIRE(metrics.size() == 20);
  for (const auto& line : metrics)
    for (const auto& [name, share] : {std::pair{"a", 0.1}, {"bee", 0.3}, {"c", 0.6}}) {
      const double rows = line.at("sources").at(name).at("rows");
      CHECK(std::abs(rows - share * 2 * line.at("step").get<double>()) < 1);
      CHECK(line.at("sources").at(name).at("tokens") == 33 * rows);
    }
  CHECK(last_of(run, "out", "rows") == Counts{{"a", 4}, {"bee", 12}, {"c", 24}});
  CHECK(last_of(run, "out", "epoch") == Counts{{"a", 4.0 / 3}, {"bee", 0.6}, {"c", 0.48}});
  CHECK(metrics.back().at("epoch") == 40.0 / 73);
  CHECK(metrics.back().at("rows") == nlohmann::json{38, 39});

  // On several ranks, and with another accumulation, the rows are the same.
  for (const auto& [ranks, sets] : std::vector<std::pair<int, Names>>{
           {2, {"train.per_device_train_batch_size=1"}},
           {1, {"train.per_device_train_batch_size=1", "train.gradient_accumulation_steps=2"}}}) {
    Names overrides = set;
    overrides.insert(overrides.end(), sets.begin(), sets.end());
    const std::string output = "ranks-" + std::to_string(ranks);
    run.train_to_end(output, overrides, {}, ranks);
    const auto others = run.metrics(output);
    for (std::size_t i = 0; i < metrics.size(); ++i) {
      CHECK(others[i].at("sources") == metrics[i].at("sources"));
      CHECK_THAT(others[i].at("ce_loss").get<double>(),
                 Catch::Matchers::WithinRel(metrics[i].at("ce_loss").get<double>(), 1e-5));
    }
  }
}

TEST_CASE("mix: a run that stops and resumes equals one that does not, and another batch size continues in place") {
  const ThreeSources run;
  const Names set = {kThree, "data.shuffle=true", "checkpoint.save_steps=5"};
  const auto with = [&](const std::string& more) {
    Names all = set;
    all.push_back(more);
    return all;
  };
  // The schedule of the learning rate is the same up to step 10 of 10.
  run.train_to_end("whole", with("train.max_steps=10"));
  fs::create_directories(run / "parts/checkpoints");
  fs::copy(run.checkpoint("whole", 5), run.checkpoint("parts", 5), fs::copy_options::recursive);
  run.train_to_end("parts", with("train.max_steps=10"));
  check_same_state(run.checkpoint("whole", 10), run.checkpoint("parts", 10));
  CHECK(ssa::read_file(run.checkpoint("whole", 10) / "trainer.json").size() > 0);
  CHECK(saved_source(run.checkpoint("whole", 10), "a") == saved_source(run.checkpoint("parts", 10), "a"));

  // 10 rows, then 15 steps of 6 rows on 3 ranks; against 100 rows at once.
  Names larger = with("train.max_steps=20");
  larger.push_back("train.per_device_train_batch_size=2");
  run.train_to_end("larger", larger, {"--resume", run.checkpoint("whole", 5).string()}, 3);
  CHECK(last_of(run, "larger", "rows") == Counts{{"a", 10}, {"bee", 30}, {"c", 60}});
  run.train_to_end("single", with("train.max_steps=50"));
  for (const char* name : {"a", "bee", "c"})
    CHECK(saved_source(run.checkpoint("larger", 20), name) == saved_source(run.checkpoint("single", 50), name));
}

TEST_CASE("mix: weights and sources change at a resume only by name, and no row of an epoch is read twice") {
  const ThreeSources run;
  write_documents(run / "d", 10, 150);
  run.train_to_end("out", {kThree, "train.max_steps=10", "checkpoint.save_steps=10"});  // 20 rows: 2, 6, 12
  const Names reweighted = {R"(data.sources=[{"path": "a", "weight": 1}, {"path": "b", "weight": 1, "name": "bee"}, )"
                            R"({"path": "c", "weight": 2}])",
                            "train.max_steps=14"};
  check_fails(run.train("out", reweighted), kExitUsage,
              {"cannot resume from", "data.sources: bee with weight 3 in the checkpoint, bee with weight 1 now",
               "data.sources: c with weight 6 in the checkpoint, c with weight 2 now", "--allow-change data.sources"});
  const ProgramResult changed = run.train("out", reweighted, {"--allow-change", "data.sources"});
  INFO(changed.out << changed.err);
  REQUIRE(changed.exit_code == 0);
  CHECK_THAT(changed.out, has("data.sources: bee continues at row 6 of its epoch 0"));
  // 8 more rows: 2, 2, 4. The shares count from here.
  CHECK(last_of(run, "out", "rows") == Counts{{"a", 4}, {"bee", 8}, {"c", 16}});
  CHECK(last_of(run, "out", "epoch") == Counts{{"a", 4.0 / 3}, {"bee", 0.4}, {"c", 0.32}});
  CHECK(run.metrics("out")[10].at("rows") == nlohmann::json{20, 21});

  // c leaves, d joins; then c comes back where it was.
  const Names without = {R"(data.sources=[{"path": "a", "weight": 1}, {"path": "b", "weight": 1, "name": "bee"}, )"
                         R"({"path": "d", "weight": 2}])",
                         "train.max_steps=18"};
  check_fails(run.train("out", without), kExitUsage,
              {"data.sources: c with weight 2 in the checkpoint, no c now",
               "data.sources: no d in the checkpoint, d with weight 2 now"});
  run.train_to_end("out", without, {"--allow-change", "data"});
  CHECK(last_of(run, "out", "rows") == Counts{{"a", 6}, {"bee", 10}, {"d", 4}});
  CHECK(saved_source(run.checkpoint("out", 18), "c", "former_sources").at("epoch_row") == 16);
  const Names back = {R"(data.sources=[{"path": "c", "weight": 3}, {"path": "d", "weight": 1}])", "train.max_steps=20"};
  run.train_to_end("out", back, {"--allow-change", "data.sources"});
  CHECK(last_of(run, "out", "rows") == Counts{{"c", 19}, {"d", 5}});
  CHECK(last_of(run, "out", "epoch") == Counts{{"c", 0.38}, {"d", 0.5}});
}

TEST_CASE("mix: other documents under a source's name are refused, the same ones elsewhere are not") {
  const ThreeSources run;
  run.train_to_end("out", {kThree, "train.max_steps=5", "checkpoint.save_steps=5"});  // 10 rows: 1, 3, 6
  fs::rename(run / "b", run / "moved");
  std::string moved = kThree;
  moved.replace(moved.find("\"b\""), 3, "\"moved\"");
  const ProgramResult result = run.train("out", {moved, "train.max_steps=10", "checkpoint.save_steps=5"});
  INFO(result.out << result.err);
  REQUIRE(result.exit_code == 0);
  CHECK_THAT(result.out, has("data.sources: bee in b in the checkpoint, bee in moved now"));
  CHECK(last_of(run, "out", "rows") == Counts{{"a", 2}, {"bee", 6}, {"c", 12}});
  write_documents(run / "moved", 20, 51);
  check_fails(run.train("out", {moved, "train.max_steps=15"}), kExitUsage,
              {"data.sources: bee, fingerprint ", "--allow-change data.sources"});
  run.train_to_end("out", {moved, "train.max_steps=15", "checkpoint.save_steps=5"}, {"--allow-change", "data.sources"});
  CHECK(saved_source(run.checkpoint("out", 15), "bee").at("epoch_row") == 3);
  CHECK(saved_source(run.checkpoint("out", 15), "bee").at("rows") == 9);
  CHECK(saved_source(run.checkpoint("out", 15), "c").at("epoch_row") == 18);
  // Another order of the rows: every source begins again.
  run.train_to_end("out", {moved, "train.max_steps=20", "data.shuffle=true"}, {"--allow-change", "data.shuffle"});
  CHECK(saved_source(run.checkpoint("out", 20), "c").at("epoch_row") == 6);
  CHECK(run.metrics("out")[15].at("rows") == nlohmann::json{0, 1});
}

TEST_CASE("mix: the dataset of data.path continues as a source of a mix") {
  const ThreeSources run;
  run.train_to_end("out", {"data.path=c", "data.shuffle=true", "train.max_steps=5", "checkpoint.save_steps=5"});
  const Names mixed = {R"(data.sources=[{"path": "c", "weight": 1}, {"path": "b", "weight": 1}])", "data.shuffle=true",
                       "train.max_steps=10", "checkpoint.save_steps=5"};
  check_fails(run.train("out", mixed), kExitUsage,
              {"data.path: c in the checkpoint, null now", "--allow-change data.path,data.sources"});
  run.train_to_end("out", mixed, {"--allow-change", "data.path,data.sources"});
  CHECK(saved_source(run.checkpoint("out", 10), "c").at("epoch_row") == 15);
  CHECK(saved_source(run.checkpoint("out", 10), "b").at("epoch_row") == 5);
  CHECK(run.metrics("out")[5].at("rows") == nlohmann::json{10, 11});
  // The order of its rows is the one that data.path had, also after another resume: its first epoch ends as that one.
  CHECK(saved_source(run.checkpoint("out", 10), "c").at("order") == "");
  Names longer = mixed;
  longer[2] = "train.max_steps=45";  // 35 rows of c are left
  run.train_to_end("out", longer);
  CHECK(saved_source(run.checkpoint("out", 45), "c").at("epoch") == 1);
  CHECK(saved_source(run.checkpoint("out", 45), "c").at("order") == "");
  // And back: data.path begins with its first row, and says so.
  const ProgramResult result =
      run.train("out", {"data.path=c", "data.shuffle=true", "train.max_steps=46"}, {"--allow-change", "data"});
  INFO(result.out << result.err);
  CHECK(result.exit_code == 0);
  CHECK_THAT(result.out, has("data is read from its first row"));
}

TEST_CASE("mix: --dry-run prints the table, and sources of different tokenizers are refused") {
  const ThreeSources run;
  const ProgramResult result = run.train("out", {kThree, "train.max_steps=50"}, {"--dry-run"});
  INFO(result.out << result.err);
  REQUIRE(result.exit_code == 0);
  CHECK(table_of(result.out) ==
        std::vector<std::vector<std::string>>{{"a", "0.1000", "3", "99", "3", "10", "330", "3.333"},
                                              {"bee", "0.3000", "20", "660", "20", "30", "990", "1.500"},
                                              {"c", "0.6000", "50", "1650", "50", "60", "1980", "1.200"}});

  // Of the sources that are missing, the shares and the rows are known.
  fs::rename(run / "b", run / "elsewhere");
  ProgramResult partial = run.train("out", {kThree, "train.max_steps=50"}, {"--dry-run"});
  INFO(partial.out << partial.err);
  REQUIRE(partial.exit_code == 0);
  CHECK_THAT(partial.out, has("  b does not exist yet\n"));
  CHECK(table_of(partial.out) ==
        std::vector<std::vector<std::string>>{{"a", "0.1000", "3", "99", "3", "10", "330", "3.333"},
                                              {"bee", "0.3000", "-", "-", "-", "30", "990", "-"},
                                              {"c", "0.6000", "50", "1650", "50", "60", "1980", "1.200"}});
  CHECK_THAT(partial.out, has("a, packing greedy: 3 rows"));
  // The number of rows of whole epochs is not.
  partial = run.train("out", {kThree, "train.max_steps=-1", "train.num_train_epochs=1", R"(data.eval_path="c")"},
                      {"--dry-run"});
  INFO(partial.out << partial.err);
  REQUIRE(partial.exit_code == 0);
  CHECK(table_of(partial.out) ==
        std::vector<std::vector<std::string>>{{"a", "0.1000", "3", "99", "3", "-", "-", "-"},
                                              {"bee", "0.3000", "-", "-", "-", "-", "-", "-"},
                                              {"c", "0.6000", "50", "1650", "50", "-", "-", "-"}});
  CHECK_THAT(partial.out, has("evaluation: 50 documents"));
  fs::rename(run / "a", run / "nowhere");
  fs::rename(run / "c", run / "far");
  const ProgramResult none = run.train("out", {kThree, R"(data.eval_path="e")"}, {"--dry-run"});
  REQUIRE(none.exit_code == 0);
  for (const char* path : {"a", "b", "c/", "e"}) CHECK_THAT(none.out, has(concat("  ", path, " does not exist yet\n")));
  fs::rename(run / "nowhere", run / "a");
  fs::rename(run / "elsewhere", run / "b");
  fs::rename(run / "far", run / "c");

  name_other_tokenizer(run / "b/dataset.json");
  check_fails(run.train("out", {kThree}), kExitUsage, {"data.sources: bee was made with the tokenizer", "one of a"});
  check_fails(run.train("out", {kThree, "data.path=data"}), kExitUsage, {"data.sources", "only one of the two"});
}

TEST_CASE("mix: a weight that is too small for one row of the run is named") {
  const ThreeSources run;
  // Of 20 rows: 2, 17.98 and 0.02; of 2000 rows, 2 are from c.
  const std::string sources =
      R"(data.sources=[{"path": "a", "weight": 0.1}, {"path": "b", "weight": 0.899}, {"path": "c", "weight": 0.001}])";
  const std::string line = "data.sources: c: weight 0.001 is less than one row of the run";
  const Names set = {sources, "train.max_steps=10"};
  const ProgramResult dry = run.train("out", set, {"--dry-run"}), result = run.train("out", set);
  INFO(log_of(result));
  REQUIRE(result.exit_code == 0);
  for (const std::string& text : {dry.out, log_of(result)}) {
    CHECK_THAT(text, has(line));
    CHECK_THAT(text, !has("data.sources: a: weight") && !has("data.sources: b: weight"));
  }
  CHECK_THAT(run.train("long", {sources, "train.max_steps=1000"}, {"--dry-run"}).out, !has("less than one row"));
}

TEST_CASE("mix: the log of a resume has a table of what the run will have read at its end") {
  const ThreeSources run;
  run.train_to_end("out", {kThree, "train.max_steps=10", "checkpoint.save_steps=10"});  // 20 rows: 2, 6, 12
  // 10 more steps of 4 rows: 20, 10, 10.
  const ProgramResult result =
      run.train("out",
                {R"(data.sources=[{"path": "a", "weight": 2}, {"path": "b", "weight": 1, "name": "bee"}, )"
                 R"({"path": "c", "weight": 1}])",
                 "train.max_steps=20", "train.per_device_train_batch_size=4"},
                {"--allow-change", "data.sources"});
  INFO(result.out << result.err);
  REQUIRE(result.exit_code == 0);
  CHECK(table_of(result.out) ==
        std::vector<std::vector<std::string>>{{"a", "0.5000", "3", "99", "3", "22", "726", "7.333"},
                                              {"bee", "0.2500", "20", "660", "20", "16", "528", "0.800"},
                                              {"c", "0.2500", "50", "1650", "50", "22", "726", "0.440"}});
  CHECK(last_of(run, "out", "rows") == Counts{{"a", 22}, {"bee", 16}, {"c", 22}});
}

TEST_CASE("evaluation sets: those of another tokenizer are refused, and --dry-run describes or misses each") {
  const ThreeSources run;
  const std::string three = R"(data.eval_path={"first": "a", "second": "b"})";
  const ProgramResult dry = run.train("out", {kThree, three}, {"--dry-run"});
  CHECK_THAT(dry.out, has("evaluation first: 3 documents, 99 tokens, 3 rows"));
  CHECK_THAT(dry.out, has("evaluation second: 20 documents, 660 tokens, 20 rows"));
  const ProgramResult absent =
      run.train("out", {kThree, R"(data.eval_path={"first": "a", "x": "nowhere"})"}, {"--dry-run"});
  CHECK(absent.exit_code == 0);
  CHECK_THAT(absent.out, has("nowhere does not exist yet"));
  name_other_tokenizer(run / "b/dataset.json");
  for (const char* data : {R"(data.sources=[{"path": "a", "weight": 1}, {"path": "c", "weight": 1}])", "data.path=c"})
    for (const Names& arguments : {Names{}, Names{"--dry-run"}})
      check_fails(run.train("out", {data, three}, arguments), kExitUsage,
                  {"data.eval_path: b was made with the tokenizer", "expected the one of"});
}

TEST_CASE("evaluation sets: ssa_eval refuses data of another tokenizer than the run's") {
  const ThreeSources run;
  run.train_to_end("out", {"train.max_steps=1", "data.path=c"});
  const Arguments eval = {"ssa_eval", "--model", "out", "--data", "b", "--device", "cpu"};
  CHECK(run_program(eval, {.directory = run.path()}).exit_code == 0);
  name_other_tokenizer(run / "b/dataset.json");
  check_fails(run_program(eval, {.directory = run.path()}), kExitFailed,
              {"b was made with the tokenizer", "out/checkpoints/step-00000001 was trained with"});
  // Files of a Hugging Face directory may be another form of the same tokenizer.
  write_file(run / "model/tokenizer.json", "{}");
  const ProgramResult model = run_program(
      {"ssa_eval", "--model", "model", "--data", "b", "--device", "cpu", "--method", "full", "--selection", "exact"},
      {.directory = run.path()});
  CHECK(model.exit_code == 0);
  CHECK_THAT(log_of(model), has("b was made with the tokenizer bytes, sha256 1000") &&
                                has(", the model has model/tokenizer.json, sha256 44136fa3"));
}

TEST_CASE("evaluation sets: each has its own loss") {
  const ThreeSources run;
  run.train_to_end("out", {"train.max_steps=4", "train.eval_steps=2", "data.path=c",
                           R"(data.eval_path={"first": "a", "second": "b"})"});
  run.train_to_end("one", {"train.max_steps=4", "train.eval_steps=2", "data.path=c", "data.eval_path=b"});
  const auto both = run.metrics("out"), one = run.metrics("one");
  for (const std::size_t i : {1, 3}) {
    CHECK(both[i].at("eval_loss/second") == one[i].at("eval_loss"));
    // 33 tokens of 32 bytes each.
    CHECK_THAT(both[i].at("eval_bits_per_byte/second").get<double>(),
               Catch::Matchers::WithinRel(one[i].at("eval_loss").get<double>() / std::log(2.0) * 33 / 32, 1e-12));
    CHECK(both[i].at("eval_loss/first") != both[i].at("eval_loss/second"));
    CHECK_FALSE(both[i].contains("eval_loss"));
  }
  // Another tokenizer, whose dataset does not record its bytes: no such key, and a line says why.
  std::string info = ssa::read_file(run / "b/dataset.json");
  info.replace(info.find("\"bytes\""), 7, "\"other\"");
  write_file(run / "b/dataset.json", info);
  run.train_to_end("without", {"train.max_steps=2", "train.eval_steps=2", "data.path=c", "data.eval_path=b"});
  CHECK(run.metrics("without")[1].contains("eval_loss"));
  CHECK_FALSE(run.metrics("without")[1].contains("eval_bits_per_byte"));
  CHECK_THAT(ssa::read_file(run / "without/train.log"), has("b records no text_bytes"));
  check_fails(run.train("bad", {R"(data.eval_path={"first": "a", "second": "nowhere"})"}), kExitFailed, {"nowhere"});
}

TEST_CASE("packing: --dry-run states padding and cut documents of every packing, the log those of the run's") {
  const ThreeSources run;
  // In rows of 60 tokens: 30 | 40 | 30, 20; or 30, 30 of 40 | 10, 30, 20; or 40, 20 | 30, 30.
  Documents documents = {TokenIds(30, 1), TokenIds(40, 2), TokenIds(30, 3), TokenIds(20, 4)};
  for (TokenIds& document : documents) document.back() = 257;
  make_dataset(run / "d", {documents}, {.vocab_size = 258, .eos_token_id = 257});
  const Names set = {"data.path=d", "train.max_length=60", "data.packing=best_fit", "train.max_steps=2",
                     "train.per_device_train_batch_size=1"};
  const ProgramResult dry = run.train("out", set, {"--dry-run"});
  INFO(dry.out << dry.err);
  REQUIRE(dry.exit_code == 0);
  CHECK_THAT(dry.out, has("packing greedy: 3 rows, 33.33 % padding, 0.00 % of documents cut"));
  CHECK_THAT(dry.out, has("packing concat: 2 rows, 0.00 % padding, 25.00 % of documents cut"));
  CHECK_THAT(dry.out, has("packing best_fit: 2 rows, 0.00 % padding, 0.00 % of documents cut"));
  run.train_to_end("out", set);
  CHECK_THAT(ssa::read_file(run / "out/train.log"),
             has("data: packing best_fit: 2 rows, 0.00 % padding, 0.00 % of documents cut"));
  // Labels are counted by each rank for its own rows.
  run.train_to_end("ranks", set, {}, 2);
  run.train_to_end("one", {"data.path=d", "train.max_length=60", "data.packing=best_fit", "train.max_steps=2",
                           "train.per_device_train_batch_size=1", "train.gradient_accumulation_steps=2"});
  CHECK_THAT(run.metrics("ranks")[1].at("ce_loss").get<double>(),
             Catch::Matchers::WithinRel(run.metrics("one")[1].at("ce_loss").get<double>(), 1e-5));
}

TEST_CASE("mix: trainer.json keeps the state of every source, and one of an earlier version has none") {
  SpikeDetector spikes(10);
  TrainerState state;
  state.step = 3;
  state.position = {.epoch = 0, .row = 12, .sources = {{0, 4, 4}, {2, 1, 8}}};
  state.sources = {{"a", "a", "0123456789abcdef", 9, 4, 400}, {"b", "", "00", 3, 7, 700}};
  state.former_sources = {{{"c", "c", "11", 50, 5, 500}, {1, 6, 0}}};
  nlohmann::json saved = to_json(state, spikes);
  const TrainerState read = trainer_state(saved, "t", spikes);
  CHECK(read.position == state.position);
  REQUIRE(read.sources.size() == 2);
  CHECK(read.sources[1].name == "b");
  CHECK(read.sources[1].order.empty());
  CHECK(read.sources[1].rows == 7);
  CHECK(read.sources[1].tokens == 700);
  CHECK(read.sources[0].dataset == "0123456789abcdef");
  REQUIRE(read.former_sources.size() == 1);
  CHECK(read.former_sources[0].first.rows_per_epoch == 50);
  CHECK(read.former_sources[0].second == SourcePosition{1, 6, 0});
  saved["sources"][0]["epoch_row"] = 9;
  CHECK_THAT(error_of([&] { trainer_state(saved, "t", spikes); }),
             has("t: sources[0]: epoch_row is 9, expected below rows_per_epoch 9"));
  saved.erase("sources");
  saved.erase("former_sources");
  CHECK(trainer_state(saved, "t", spikes).sources.empty());
}

TEST_CASE("mix: a source that keeps long documents only, beside one with all of the same dataset") {
  const RunDirectory run("full");
  Documents documents;
  for (std::int32_t i = 0; i < 90; ++i) {
    const std::size_t length = i % 3 == 0 ? 33 : 10;  // a third are long
    documents.emplace_back(length, 50 + i);
    documents.back().back() = 257;
  }
  make_dataset(run / "both", {documents}, {.vocab_size = 258, .eos_token_id = 257});
  const auto sources = [](const std::string& min) {
    return R"(data.sources=[{"path": "both", "name": "long", "weight": 3)" + min +
           R"(}, {"path": "both", "name": "all", "weight": 1}])";
  };
  const std::string with_min = sources(R"(, "min_document_tokens": 33)");
  const ProgramResult dry = run.train("dry", {with_min}, {"--dry-run"});
  INFO(dry.out << dry.err);
  REQUIRE(dry.exit_code == kExitDone);
  const std::string kept = "long, 30 of 90 documents and 990 of 1590 tokens are in documents of at least 33 tokens";
  CHECK_THAT(dry.out, has(kept));
  CHECK_THAT(dry.out, has("long, packing greedy: 30 rows, 0.00 % padding, 0.00 % of documents cut"));
  // The table and the totals count the documents that are kept.
  const auto cells = [](const std::string& out) {
    std::vector<std::vector<std::string>> table = table_of(out, {"long", "all"});
    for (auto& line : table) line.resize(4);
    return table;
  };
  const std::vector<std::vector<std::string>> of_kept = {{"all", "0.2500", "90", "1590"},
                                                         {"long", "0.7500", "30", "990"}};
  CHECK(cells(dry.out) == of_kept);
  CHECK_THAT(dry.out, has("documents                120\n  tokens                   2580\n"));

  const Names set = {with_min, "train.max_steps=6", "checkpoint.save_steps=3", "data.packing=greedy"};
  const ProgramResult result = run.train("out", set);
  INFO(result.out << result.err);
  REQUIRE(result.exit_code == kExitDone);
  CHECK_THAT(result.out, has("data: " + kept));
  CHECK(cells(result.out) == of_kept);
  CHECK(last_of(run, "out", "rows") == Counts{{"all", 3}, {"long", 9}});
  CHECK(saved_source(run.checkpoint("out", 6), "long").at("rows_per_epoch") == 30);

  // Other documents of a source are another source, also if the number of rows is the same.
  fs::remove_all(run.checkpoint("out", 6));
  const Names other = {sources(R"(, "min_document_tokens": 32)"), "train.max_steps=6", "data.packing=greedy"};
  check_fails(run.train("out", other), kExitUsage,
              {"data.sources", "documents of at least 33 tokens", "documents of at least 32 tokens"});
  const ProgramResult allowed = run.train("out", other, {"--allow-change", "data.sources"});
  REQUIRE(allowed.exit_code == kExitDone);
  CHECK_THAT(allowed.out, has("long is read from its first row"));
}

TEST_CASE("min_document_tokens of the whole data, and a resume with another one") {
  const RunDirectory run("full");
  Documents documents;
  for (std::int32_t i = 0; i < 60; ++i) {
    documents.emplace_back(i % 2 ? 33 : 12, i);
    documents.back().back() = 257;
  }
  fs::remove_all(run / "data");
  make_dataset(run / "data", {documents}, {.vocab_size = 258, .eos_token_id = 257});
  const Names set = {"data.min_document_tokens=20", "train.max_steps=4", "data.packing=greedy"};
  const ProgramResult result = run.train("out", set);
  INFO(result.out << result.err);
  REQUIRE(result.exit_code == kExitDone);
  CHECK_THAT(result.out, has("data: 30 of 60 documents and 990 of 1350 tokens are in documents of at least 20 tokens"));
  CHECK_THAT(result.out, has("30 sequences of 33 tokens per epoch"));
  check_fails(run.train("out", {"data.min_document_tokens=10", "train.max_steps=6", "data.packing=greedy"}), kExitUsage,
              {"data.min_document_tokens: 20 in the checkpoint, 10 now", "--allow-change data.min_document_tokens"});
  check_fails(run.train("none", {"data.min_document_tokens=34"}), kExitFailed,
              {"0 tokens of 0 documents of at least 34 tokens"});
}
