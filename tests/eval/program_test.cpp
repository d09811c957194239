// ssa_eval as a program.
#include <cmath>
#include <cstring>
#include <map>

#include "eval/byte_model.h"
#include "support/make_dataset.h"
#include "support/paths.h"
#include "support/run_program.h"

using namespace ssa;
using namespace ssa::test;
using nlohmann::json;

namespace {

/// A model with texts, tasks and a dataset.
class EvalDirectory : public ByteModel {
 public:
  explicit EvalDirectory(const std::string& method = "ssa") : ByteModel(272, 256, method) {
    make_dataset(directory() / "data", {random_documents(20, 50, 3)});
    std::string arc, lambada;
    for (int i = 0; i < 6; ++i) {
      const std::string n = std::to_string(i);
      arc += json{{"question", concat("Is ", n, " even?")},
                  {"choices", {{"text", {"yes", "no"}}, {"label", {"A", "B"}}}},
                  {"answerKey", i % 2 ? "B" : "A"}}
                 .dump() +
             "\n";
      lambada += json{{"text", concat("number ", n, " is a number")}}.dump() + "\n";
    }
    ssa::test::write_file(directory() / "arc_easy.jsonl", arc);
    ssa::test::write_file(directory() / "lambada_openai.jsonl", lambada);
    ssa::test::write_file(directory() / "text.txt", "Some words of text.\n" + std::string(100, 'a'));
  }

  ProgramResult run(Arguments arguments, int ranks = 1) const {
    Arguments all = {"ssa_eval", "--model", "model", "--device", "cpu"};
    all.insert(all.end(), arguments.begin(), arguments.end());
    return run_program(all, {.directory = directory(), .ranks = ranks});
  }
  json results(Arguments arguments, int ranks = 1) const {
    arguments.insert(arguments.end(), {"--output", "out/results.json"});
    const ProgramResult result = run(arguments, ranks);
    INFO(result.out << result.err);
    REQUIRE(result.exit_code == kExitDone);
    return json::parse(ssa::read_file(directory() / "out/results.json"));
  }
};

const Arguments kEverything = {"--tokenizer",   "bytes",   "--data",           "data",       "--text",
                               "text.txt",      "--tasks", "arc_easy,lambada", "--task-dir", ".",
                               "--num-fewshot", "1",       "--mode",           "both",       "--log-samples"};

}  // namespace

TEST_CASE("ssa_eval: data, text and tasks in one run, with sparse and full attention") {
  const EvalDirectory directory;
  const json documents = directory.results(kEverything);
  REQUIRE(documents.size() == 2);
  for (const json& document : documents) {
    const json& results = document["results"];
    CHECK(results["data"]["loss,none"].get<double>() > 4);
    CHECK(results["text"]["word_perplexity,none"].get<double>() > 1);
    CHECK(results["arc_easy"]["sample_len"] == 6);
    CHECK(results["arc_easy"].contains("acc_norm_stderr,none"));
    CHECK(results["lambada_openai"]["perplexity_stderr,none"].is_number());
    CHECK(document["samples"]["arc_easy"].size() == 6);
    CHECK(document["n-shot"]["arc_easy"] == 1);
    CHECK(document["n-shot"]["text"] == 0);
  }
  CHECK(documents[0]["config"]["model_args"]["mode"] == "sparse");
  CHECK(documents[1]["config"]["model_args"]["mode"] == "full");
}

TEST_CASE("ssa_eval: states the speed of each evaluation and setting") {
  const EvalDirectory directory;
  const std::string err = directory
                              .run({"--tokenizer", "bytes", "--data", "data", "--text", "text.txt", "--tasks",
                                    "arc_easy,lambada", "--task-dir", "."})
                              .err;
  INFO(err);
  for (const char* what : {"data", "text", "arc_easy", "lambada_openai"})
    for (const char* setting : {"sparse 3x4", "full"}) {
      const std::string begin = concat(what, ", ", setting, ": ");
      const std::size_t at = err.find(begin);
      REQUIRE(at != std::string::npos);
      const std::string line = err.substr(at, err.find('\n', at) - at);
      CHECK(line.find(" tokens in ") != std::string::npos);
      CHECK(line.ends_with(" tokens/s"));
    }
}

TEST_CASE("ssa_eval: two ranks give the results of one") {
  const EvalDirectory directory;
  const json one = directory.results(kEverything), two = directory.results(kEverything, 2);
  for (std::size_t s = 0; s < 2; ++s)
    for (const auto& [task, values] : one[s]["results"].items())
      for (const auto& [key, value] : values.items()) {
        INFO(task << " " << key);
        if (!value.is_number_float()) continue;
        const double difference = std::abs(value.get<double>() - two[s]["results"][task][key].get<double>());
        CHECK(difference <= 1e-5 * std::abs(value.get<double>()));  // sums in another order
      }
}

TEST_CASE("ssa_eval: budgets, block size, scaling and limit reach the results") {
  const EvalDirectory directory;
  const json documents =
      directory.results({"--data", "data", "--mode", "sparse", "--block-counts", "1,2,16", "--block-size", "8"});
  REQUIRE(documents.size() == 3);
  CHECK(documents[2]["config"]["model_args"]["block_counts"] == 16);
  CHECK(documents[2]["config"]["model_args"]["block_size"] == 8);
  const json full = directory.results({"--data", "data", "--mode", "full"});
  const auto loss = [](const json& document) { return document["results"]["data"]["loss,none"].get<double>(); };
  CHECK(loss(documents[0]) != loss(documents[1]));
  CHECK(std::abs(loss(documents[2]) - loss(full)) < 1e-5);  // every block of 64 tokens is selected
  const json scaled =
      directory.results({"--data", "data", "--mode", "full", "--rope-scaling", "4", "--max-length", "64"});
  CHECK(loss(scaled) != loss(full));
  CHECK(scaled["config"]["model_args"]["rope_scaling"]["factor"] == 4.0);
  const json limited = directory.results({"--tokenizer", "bytes", "--tasks", "arc_easy=arc_easy.jsonl", "--limit", "2",
                                          "--mode", "full", "--num-fewshot", "2", "--seeds", "1,2,3"});
  CHECK(limited["n-samples"]["arc_easy"] == json{{"original", 6}, {"effective", 2}});
  CHECK(limited["results"]["arc_easy"].contains("acc_std,none"));
  CHECK(limited["config"]["fewshot_seed"] == json{1, 2, 3});
}

TEST_CASE("ssa_eval: warns of few-shot prompts that do not fit --max-length") {
  const EvalDirectory directory;
  const auto warned = [&](const Arguments& more) {
    Arguments all = {"--tokenizer", "bytes",   "--tasks", "arc_easy", "--task-dir",
                     ".",           "--limit", "4",       "--mode",   "full"};
    all.insert(all.end(), more.begin(), more.end());
    const ProgramResult result = directory.run(all);
    REQUIRE(result.exit_code == kExitDone);
    CHECK_THAT(result.out, !has("prompts cut"));  // it has the results, which a file may take
    return result.err;
  };
  // "Question: Is 0 even?\nAnswer:" has 28 bytes, " yes" 4; with the last token no input, 31 are enough.
  CHECK_THAT(warned({"--max-length", "30"}), has("arc_easy: 4 of 4 prompts cut on the left to --max-length 30 tokens"));
  CHECK_THAT(warned({"--max-length", "31"}), !has("prompts cut"));
  CHECK_THAT(warned({"--max-length", "64", "--num-fewshot", "2"}), has("4 of 4 prompts cut"));
}

TEST_CASE("ssa_eval: --document-mask gives packed documents the loss that they have alone") {
  const EvalDirectory directory;
  std::vector<Documents> shards = {random_documents(20, 30, 4)};
  for (TokenIds& document : shards[0]) document.resize(static_cast<std::size_t>(31 + document.size() % 20), 7);
  make_dataset(directory.directory() / "pieces", shards);
  const auto run = [&](const std::string& length, const std::string& mask) {
    return directory.results(
        {"--data", "pieces", "--mode", "both", "--max-length", length, "--document-mask", mask, "--rows", "3"});
  };
  // In rows of 50 tokens every document is alone.
  const json alone = run("50", "off"), masked = run("400", "on"), crossing = run("400", "off");
  for (const std::size_t s : {0, 1}) {
    const auto loss = [&](const json& documents) {
      return documents[s]["results"]["pieces"]["loss,none"].get<double>();
    };
    CHECK(std::abs(loss(masked) / loss(alone) - 1) < 1e-6);  // f32 losses summed in another order
    CHECK(std::abs(loss(crossing) / loss(alone) - 1) > 1e-4);
    CHECK(masked[s]["configs"]["pieces"]["metadata"]["document_mask"] == true);
    CHECK_FALSE(crossing[s]["configs"]["pieces"]["metadata"].contains("document_mask"));
  }
  CHECK(directory.results({"--data", "pieces", "--mode", "full", "--max-length", "400"})["results"] ==
        crossing[1]["results"]);  // a Hugging Face directory records no mask
}

TEST_CASE("ssa_eval: attention statistics of data and texts, on one and two ranks") {
  const EvalDirectory directory;
  const Arguments arguments = {"--data", "data", "--attention-stats", "--max-length", "32", "--limit", "6",
                               "--rows", "2"};
  const json one = directory.results(arguments), two = directory.results(arguments, 2);
  REQUIRE(one.size() == 2);
  for (std::size_t s = 0; s < 2; ++s) {
    CHECK(one[s]["attention"]["rows"] == 6);
    CHECK(one[s]["attention"]["layers"].size() == 2);
    for (const auto& [key, value] : one[s]["attention"]["mean"].items())
      CHECK(std::abs(value.get<double>() - two[s]["attention"]["mean"][key].get<double>()) < 1e-6);
  }
  const ProgramResult text =
      directory.run({"--text", "text.txt", "--tokenizer", "bytes", "--attention-stats", "--sink-tokens", "2"});
  CHECK(text.exit_code == kExitDone);
  CHECK(text.out.find("1 sequences of 64 tokens") != std::string::npos);
  CHECK(text.out.find("first 2 tokens") != std::string::npos);
  check_fails(directory.run({"--tasks", "arc_easy", "--task-dir", ".", "--attention-stats"}), kExitUsage,
              {"--attention-stats needs --data or --text"});
}

TEST_CASE("ssa_eval: errors of products in FP8, on one and two ranks") {
  const EvalDirectory directory;
  const Arguments arguments = {"--data", "data", "--fp8-errors", "--max-length", "32", "--limit", "4",
                               "--rows", "2",    "--mode",       "full"};
  const json one = directory.results(arguments)["fp8_errors"], two = directory.results(arguments, 2)["fp8_errors"];
  CHECK(one["rows"] == 4);
  CHECK(one["tokens"] == 32);
  CHECK(one["layers"].size() == 2);
  for (const char* which : {"qkvg_proj", "down_proj"})
    for (const auto& [kind, error] : one["mean"][which].items()) {
      CHECK(error.get<double>() > 0.01);
      CHECK(error.get<double>() < 0.08);
      CHECK(two["mean"][which][kind].get<double>() == Approx(error.get<double>()).epsilon(1e-9));
    }
  const ProgramResult table =
      directory.run({"--data", "data", "--fp8-errors", "--max-length", "32", "--limit", "1", "--mode", "full"});
  CHECK(table.exit_code == kExitDone);
  CHECK(table.out.find("error of products in FP8, full, 1 sequences of 32 tokens") != std::string::npos);
  check_fails(directory.run({"--data", "data", "--fp8-errors", "--max-length", "20", "--limit", "3", "--rows", "2"}),
              kExitUsage,
              {"--fp8-errors: 2 sequences of 20 tokens, expected a multiple of 16 tokens; --rows, --limit and "
               "--max-length choose"});
  check_fails(directory.run({"--tasks", "arc_easy", "--task-dir", ".", "--fp8-errors"}), kExitUsage,
              {"--fp8-errors needs --data or --text"});
}

TEST_CASE("ssa_eval: a model whose config.json names no method is evaluated as --method and --selection say") {
  const EvalDirectory directory;
  const auto config_file = directory.path() / "config.json";
  json config = json::parse(ssa::read_file(config_file));
  const auto loss = [&](const Arguments& more, const std::string& mode = "sparse") {
    Arguments all = {"--data", "data", "--mode", mode};
    all.insert(all.end(), more.begin(), more.end());
    return directory.results(all)["results"]["data"]["loss,none"].get<double>();
  };
  config["block_counts"] = 4;  // above half a chunk of block_size blocks, where the selections differ
  std::map<std::string, double> known;
  for (const std::string method : {"ssa", "moba", "full", "nsa"})
    for (const std::string selection : {"exact", "reference"}) {
      config["attention_method"] = method;
      config["selection"] = selection;
      ssa::test::write_file(config_file, config.dump());
      known[method + selection] = loss({});
    }
  CHECK(known["ssaexact"] != known["ssareference"]);
  CHECK(known["ssaexact"] != known["nsaexact"]);
  check_fails(directory.run({"--data", "data", "--method", "ssa"}), kExitUsage,
              {"--method ssa", "attention method nsa", "expected nsa"});
  check_fails(directory.run({"--data", "data", "--selection", "exact"}), kExitUsage, {"selection reference"});
  check_fails(directory.run({"--data", "data", "--method", "dense"}), kExitUsage,
              {"--method dense, expected one of ssa, full, moba, nsa"});

  config.erase("attention_method");
  config.erase("selection");
  ssa::test::write_file(config_file, config.dump());
  for (const std::string method : {"ssa", "moba", "full", "nsa"})
    for (const std::string selection : {"exact", "reference"})
      CHECK(loss({"--method", method, "--selection", selection}) == known[method + selection]);
  check_fails(directory.run({"--data", "data", "--selection", "exact"}), kExitUsage,
              {"model", "names no attention method", "--method"});
  check_fails(directory.run({"--data", "data", "--method", "nsa"}), kExitUsage, {"names no selection", "--selection"});
  check_fails(directory.run({"--data", "data"}), kExitUsage, {"names no attention method"});
}

TEST_CASE("ssa_eval: weights that are not finite are an error") {
  const EvalDirectory directory;
  const auto file = directory.path() / "model.safetensors";
  std::string bytes = ssa::read_file(file);
  const float nan = std::nanf("");
  std::memcpy(bytes.data() + bytes.size() - sizeof nan, &nan, sizeof nan);
  std::filesystem::remove(file);
  ssa::test::write_file(file, bytes);
  check_fails(directory.run({"--data", "data"}), kExitFailed, {"model: tensor ", "is nan, expected finite values"});
}

TEST_CASE("ssa_eval: bad input is a one-line error that names it") {
  const EvalDirectory directory;
  const auto fails = [&](const Arguments& arguments, int exit_code, const std::vector<std::string>& parts) {
    check_fails(directory.run(arguments), exit_code, parts);
  };
  fails({}, kExitUsage, {"nothing to evaluate"});
  fails({"--data", "data", "--mode", "dense"}, kExitUsage, {"--mode dense"});
  fails({"--data", "data", "--block-counts", "8,x"}, kExitUsage, {"--block-counts x"});
  fails({"--data", "data", "--rope-scaling", "-1"}, kExitUsage, {"--rope-scaling -1"});
  fails({"--data", "data", "--document-mask", "yes"}, kExitUsage, {"--document-mask yes, expected on or off"});
  fails({"--text", "text.txt", "--document-mask", "on"}, kExitUsage, {"--document-mask needs --data"});
  fails({"--data", "data", "--stride", "8"}, kExitUsage, {"--stride needs --text or --tasks"});
  fails({"--data", "data", "--mode", "full", "--block-counts", "2,4"}, kExitUsage,
        {"--block-counts needs --mode sparse or both"});
  fails({"--data", "data", "--mode", "full", "--block-size", "8"}, kExitUsage,
        {"--block-size needs --mode sparse or both, or --attention-stats"});
  fails({"--data", "data", "--tokenizer", "bytes"}, kExitUsage,
        {"--tokenizer needs --text, --tasks, --needle or --generate"});
  fails({"--data", "data", "--limit", "8"}, kExitUsage, {"--limit needs --tasks, --text, "});
  fails({"--text", "text.txt", "--num-fewshot", "2"}, kExitUsage, {"--num-fewshot needs --tasks"});
  fails({"--data", "data", "--seeds", "1,2"}, kExitUsage, {"--seeds needs --tasks"});
  const std::string rolling = "wikitext=text.txt", choices = "arc_easy=arc_easy.jsonl";
  fails({"--tasks", choices, "--stride", "8"}, kExitUsage, {"--stride 8: no long text, expected wikitext or --text"});
  fails({"--tasks", choices, "--truncation", "left"}, kExitUsage, {"--truncation left: no task of generated answers"});
  fails({"--tasks", choices, "--seeds", "1,2"}, kExitUsage,
        {"--seeds: found 2 seeds", "expected --num-fewshot above 0"});
  fails({"--tasks", choices, "--task-dir", "."}, kExitUsage, {"--task-dir .: every task has its file"});
  fails({"--tasks", rolling, "--num-fewshot", "1"}, kExitUsage, {"--num-fewshot 1: no task with examples"});
  fails({"--data", "data", "--depths", "50"}, kExitUsage, {"--depths needs --needle"});
  fails({"--data", "data", "--temperature", "1"}, kExitUsage, {"--temperature needs --generate"});
  fails({"--data", "data", "--seed", "1"}, kExitUsage,
        {"--seed needs --generate with a --temperature above 0, or --needle"});
  fails({"--data", "data", "--output", "x", "--log-samples"}, kExitUsage, {"--log-samples needs --tasks or --text"});
  fails({"--data", "data", "--original-positions", "64"}, kExitUsage, {"--original-positions needs --rope-scaling"});
  fails({"--data", "data", "--seeds", "1,-2"}, kExitUsage, {"--seeds -2"});
  fails({"--data", "data", "--frobnicate"}, kExitUsage, {"--frobnicate"});
  fails({"--data", "data", "--log-samples"}, kExitUsage, {"--log-samples requires --output"});
  const auto no_output = directory.run({"--data", "data", "--output", "."});
  check_fails(no_output, kExitFailed, {".: a directory, expected a file"});
  CHECK(no_output.err.find("tokens/s") == std::string::npos);  // before the evaluation
  fails({"--data", "nowhere"}, kExitFailed, {"nowhere", "no such directory"});
  fails({"--tasks", "arc_hard", "--task-dir", "."}, kExitUsage, {"arc_hard", "no such task", "arc_easy"});
  fails({"--tasks", "piqa"}, kExitUsage, {"piqa", "--task-dir"});
  fails({"--tasks", "arc_easy=", "--task-dir", "."}, kExitUsage, {"--tasks arc_easy=: no file"});
  fails({"--tasks", "piqa", "--task-dir", "."}, kExitUsage, {"no file of the task piqa", "piqa.jsonl"});
  fails({"--tasks", "piqa", "--task-dir", "nowhere"}, kExitUsage, {"nowhere: no such directory", "piqa"});
  fails({"--text", "text.txt"}, kExitUsage, {"model", "no tokenizer", "--tokenizer"});
  const std::string gpt2 = (ssa::test::source_dir() / "tests/tokenizer/gpt2.tokenizer.json").string();
  fails({"--text", "text.txt", "--tokenizer", gpt2}, kExitFailed, {"gpt2", "641", "272"});
  fails({"--text", "none.txt", "--tokenizer", "bytes"}, kExitFailed, {"none.txt"});
  fails({"--text", "text.txt", "--tokenizer", "bytes", "--stride", "65"}, kExitFailed, {"text.txt", "stride of 65"});
  ssa::test::write_file(directory.directory() / "arc_easy.jsonl", "{\"question\": \"x\"}\n");
  fails({"--tasks", "arc_easy", "--task-dir", ".", "--tokenizer", "bytes"}, kExitFailed,
        {"arc_easy.jsonl: line 1", "choices"});
  std::filesystem::create_directory(directory.directory() / "shards");
  ssa::test::write_file(directory.directory() / "shards/config.json", "{}");
  check_fails(run_program({"ssa_eval", "--model", "shards", "--data", "data"}, {.directory = directory.directory()}),
              kExitFailed, {"shards: neither model.safetensors nor model.safetensors.index.json"});
  const EvalDirectory nsa("nsa");
  check_fails(nsa.run({"--data", "data", "--mode", "full"}), kExitUsage, {"nsa", "no full attention"});
  CHECK(directory.run({"--help"}).out.find("example") != std::string::npos);
}

TEST_CASE("ssa_eval: results that cannot be written to standard output are an error") {
  const EvalDirectory directory;
  const std::string program = (ssa::test::binary_dir() / "ssa_eval").string();
  for (const std::string what : {" --data data", " --generate ab --max-new-tokens 2 --tokenizer bytes"}) {
    const auto to = [&](const char* file) {
      return run_program({"/bin/sh", "-c", program + " --model model --device cpu" + what + " > " + file},
                         {.directory = directory.directory()});
    };
    INFO(what);
    CHECK(to("/dev/null").exit_code == kExitDone);
    const ProgramResult full = to("/dev/full");
    CHECK(full.exit_code == kExitFailed);
    CHECK(full.err.find("error: standard output: ") != std::string::npos);
  }
}

TEST_CASE("ssa_eval: a published config.json, all methods and selections, against an independent implementation") {
  // tests/golden/published.json: losses computed in float64 for 64 tokens, with block_counts 4 and nsa's window of 5.
  const EvalDirectory directory;
  const json expected = json::parse(ssa::read_file(ssa::test::source_dir() / "tests/golden/published.json"));
  std::filesystem::remove_all(directory.directory() / "data");
  make_dataset(directory.directory() / "data", {{expected["ids"].get<TokenIds>()}}, {.json = false});
  json config = json::parse(ssa::read_file(directory.path() / "config.json"));
  config.erase("attention_method");
  config["block_counts"] = 4;
  std::size_t compared = 0;
  for (const auto& [name, loss] : expected["losses"].items()) {
    const std::string method = name.substr(0, name.find(' ')), selection = name.substr(name.rfind(' ') + 1);
    const std::string mode = name.substr(method.size() + 1, name.rfind(' ') - method.size() - 1);
    config["window_size"] = method == "nsa" ? 5 : 0;
    ssa::test::write_file(directory.path() / "config.json", config.dump());
    const json found =
        directory.results({"--data", "data", "--method", method, "--selection", selection, "--mode", mode});
    INFO(name);
    CHECK(std::abs(found["results"]["data"]["loss,none"].get<double>() - loss.get<double>()) < 1e-6);
    ++compared;
  }
  CHECK(compared == 10);
  CHECK(expected["losses"]["ssa sparse reference"] != expected["losses"]["ssa sparse exact"]);
}
