// Generated answers: cut prompts, stops, and the same results for any number of ranks. With a random model of bytes:
// tests the mechanism, not the text.
#include "ssa/eval/generate_until.h"

#include <nlohmann/json.hpp>

#include "eval/byte_model.h"
#include "ssa/eval/generate.h"
#include "support/catch.h"
#include "support/error_of.h"
#include "support/paths.h"
#include "support/run_program.h"

using namespace ssa;
using namespace ssa::eval;
using namespace ssa::test;
using nlohmann::json;

namespace {

struct Answering : LoadedByteModel {
  TextEncoder encoder{"bytes", model.source()};
  Setting setting = generation_setting(model.source(), {});

  Answers answers(const std::vector<std::string>& prompts, const UntilOptions& options) {
    return generate_until(stream, comm, loaded, setting, encoder, prompts, options);
  }
};

/// Documents with prompts of several lengths.
void write_documents(const std::filesystem::path& dir) {
  std::string ruler, samsum;
  for (int i = 0; i < 7; ++i) {
    const std::string text = std::string(static_cast<std::size_t>(3 + 13 * (i * 3 % 7)), static_cast<char>('a' + i));
    ruler +=
        json{{"input", text}, {"outputs", {"e", "t"}}, {"max_length", i < 5 ? 4096 : 8192}, {"gen_prefix", "It is"}}
            .dump() +
        "\n";
    samsum += json{{"context", text}, {"input", "q"}, {"answers", {"e", "a b"}}}.dump() + "\n";
  }
  ssa::test::write_file(dir / "niah_single_2.jsonl", ruler);
  ssa::test::write_file(dir / "longbench_samsum.jsonl", samsum);
}

}  // namespace

TEST_CASE("a prompt that is too long loses its beginning, or its middle") {
  const TokenIds ids = {0, 1, 2, 3, 4, 5, 6};
  CHECK(truncated(ids, 7, Truncation::left) == ids);
  CHECK(truncated(ids, 3, Truncation::left) == TokenIds{4, 5, 6});
  CHECK(truncated(ids, 7, Truncation::middle) == ids);
  CHECK(truncated(ids, 4, Truncation::middle) == TokenIds{0, 1, 5, 6});
  CHECK(truncated(ids, 3, Truncation::middle) == TokenIds{0, 5, 6});
  CHECK(truncated(ids, 1, Truncation::middle) == TokenIds{6});
}

TEST_CASE("a text is cut before the first of its stops") {
  const std::vector<std::string> until = {"\n", "end"};
  CHECK(cut_at("some end\nmore", until) == "some ");
  CHECK(cut_at("so\nme end", until) == "so");
  CHECK(cut_at("\n", until).empty());
  CHECK(cut_at("some", until) == "some");
  CHECK(cut_at("some", {}) == "some");
}

TEST_CASE("the texts of special tokens are left out of an answer, those of other added tokens are not") {
  const Tokenizer llama3 = load_tokenizer((source_dir() / "tests/tokenizer/llama3.tokenizer.json").string());
  CHECK(llama3.is_special(640));  // <|begin_of_text|>
  CHECK(llama3.is_special(llama3.eos_token_id()));
  CHECK_FALSE(llama3.is_special(0));
  const Tokenizer neox = load_tokenizer((source_dir() / "tests/tokenizer/neox.tokenizer.json").string());
  CHECK(neox.is_special(640));        // <|endoftext|>
  CHECK_FALSE(neox.is_special(641));  // eight spaces
  CHECK(load_tokenizer("bytes").is_special(256));
}

TEST_CASE("answers are the greedy continuations of the cut prompts, up to a stop") {
  Answering m;
  const std::vector<std::string> prompts = {"Short", std::string(30, 'x') + " and a long prompt of many letters", "",
                                            "Mid"};
  const UntilOptions options{.rows = 2, .max_length = 40, .max_new_tokens = 12, .until = {}};
  const Answers whole = m.answers(prompts, options);
  REQUIRE(whole.texts.size() == 4);
  CHECK(whole.cut_prompts == 1);
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    INFO(prompts[i]);
    TokenIds ids = truncated(m.encoder.encode(prompts[i]), 28, Truncation::left);
    if (ids.empty()) ids = {256};
    Decoder decoder = make_decoder(m.stream, m.loaded, m.setting, 1, 40, 28);
    const TokenIds expected =
        continue_prompts(decoder, std::span(&ids, 1), {.max_new_tokens = 12, .end_token = 256, .vocab_size = 257})[0];
    std::string text = m.encoder.tokenizer().decode(expected);
    replace_invalid_utf8(text);
    CHECK(whole.texts[i] == text);
  }
  UntilOptions middle = options;
  middle.truncation = Truncation::middle;
  CHECK(m.answers(prompts, middle).texts[0] == whole.texts[0]);

  // Its own third character as a stop: nothing of it or after it is left.
  UntilOptions stopping = options;
  const std::string stop = whole.texts[0].substr(2, 1);
  stopping.until = {stop};
  const Answers stopped = m.answers(prompts, stopping);
  for (std::size_t i = 0; i < prompts.size(); ++i)
    CHECK(stopped.texts[i] == whole.texts[i].substr(0, whole.texts[i].find(stop)));
  check_error(error_of([&] { m.answers(prompts, {.rows = 2, .max_length = 12, .max_new_tokens = 12, .until = {}}); }),
              "--max-length 12", "up to 12 tokens", "more than that");
}

TEST_CASE("ssa_eval: RULER and LongBench give the same results on one and two ranks") {
  const ByteModel model;
  write_documents(model.directory());
  const auto results = [&](const Arguments& more, int ranks) {
    Arguments all = {"ssa_eval",      "--model",  "model",
                     "--device",      "cpu",      "--tokenizer",
                     "bytes",         "--tasks",  "niah_single_2,longbench_samsum",
                     "--task-dir",    ".",        "--max-length",
                     "200",           "--rows",   "2",
                     "--log-samples", "--output", "out.json"};
    all.insert(all.end(), more.begin(), more.end());
    const ProgramResult result = run_program(all, {.directory = model.directory(), .ranks = ranks});
    INFO(result.out << result.err);
    REQUIRE(result.exit_code == kExitDone);
    CHECK(result.err.find("2 of 7 prompts cut on the left to 72 tokens, --max-length 200 less the 128 of") !=
          std::string::npos);
    return json::parse(ssa::read_file(model.directory() / "out.json"));
  };
  const json one = results({}, 1), two = results({}, 2);
  REQUIRE(one.size() == 2);  // sparse and full attention
  for (std::size_t s = 0; s < 2; ++s) {
    CHECK(one[s]["results"] == two[s]["results"]);
    CHECK(one[s]["samples"] == two[s]["samples"]);
    const json& ruler = one[s]["results"]["niah_single_2"];
    CHECK(ruler["4096,none"].is_number());
    CHECK(ruler["8192,none"].is_number());
    CHECK(ruler["4096_stderr,none"] == "N/A");
    CHECK(one[s]["results"]["longbench_samsum"]["rouge_score_stderr,none"].is_number());
    CHECK(one[s]["configs"]["longbench_samsum"]["output_type"] == "generate_until");
    const json& sample = one[s]["samples"]["longbench_samsum"][0];
    CHECK(sample["arguments"][0][1] == json{{"do_sample", false}, {"max_gen_toks", 128}, {"until", {"\n"}}});
    CHECK(sample["filtered_resps"][0].get<std::string>().find('\n') == std::string::npos);
  }
}

TEST_CASE("ssa_eval: bad options of generated tasks are errors that name them") {
  const ByteModel model;
  write_documents(model.directory());
  const auto fails = [&](const Arguments& more, const std::vector<std::string>& parts) {
    Arguments all = {"ssa_eval", "--model", "model", "--device", "cpu", "--tokenizer", "bytes", "--task-dir", "."};
    all.insert(all.end(), more.begin(), more.end());
    check_fails(run_program(all, {.directory = model.directory()}), kExitUsage, parts);
  };
  fails({"--tasks", "niah_single_2"}, {"--max-length 64", "up to 128 tokens"});
  fails({"--tasks", "niah_single_2", "--num-fewshot", "2"}, {"--num-fewshot 2", "niah_single_2"});
  fails({"--tasks", "niah_single_2", "--truncation", "right"}, {"--truncation right", "left or middle"});
  fails({"--tasks", "ruler"}, {"no file of the task niah_single_1", "niah_single_1.jsonl"});
  fails({"--tasks", "longbench_vcsum"}, {"longbench_vcsum", "Chinese"});
}
