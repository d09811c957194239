// Haystacks, and the check of answers.
#include "ssa/eval/needle.h"

#include <nlohmann/json.hpp>
#include <set>

#include "support/catch.h"
#include "support/error_of.h"
#include "support/random_model.h"
#include "support/run_program.h"
#include "support/temp_dir.h"

using namespace ssa;
using namespace ssa::eval;
using namespace ssa::test;

namespace {

/// The bytes tokenizer over a model of its vocabulary.
struct BytesEncoder {
  TempDir directory;
  ModelSource source;
  TextEncoder encoder;

  BytesEncoder() : source(written(directory.path() / "model")), encoder("bytes", source) {}
  static std::filesystem::path written(const std::filesystem::path& path) {
    write_random_model(path, small_bytes_model(), Method::ssa, 5);
    return path;
  }
  std::string text(const Haystack& haystack) { return encoder.tokenizer().decode(haystack.prompt); }
};

}  // namespace

TEST_CASE("a haystack has the exact length, its key near the depth, and the question at the end") {
  BytesEncoder bytes;
  for (const std::int64_t length : {200, 201, 256, 511, 1024, 3000})
    for (const std::int64_t depth : {0, 10, 50, 99, 100}) {
      INFO("length " << length << ", depth " << depth);
      const Haystack haystack = make_haystack(bytes.encoder, length, depth, 42, 3);
      CHECK(static_cast<std::int64_t>(haystack.prompt.size()) == length);
      const std::string text = bytes.text(haystack),
                        needle = " The secret number is " + haystack.key + ". Remember " + haystack.key + ".";
      CHECK(haystack.key.size() == 5);
      CHECK(haystack.key.find_first_not_of("0123456789") == std::string::npos);
      const std::string opening = "Remember the secret number in this text.\n",
                        question = "\nWhat is the secret number? The secret number is";
      CHECK(text.rfind(opening, 0) == 0);
      CHECK(text.size() >= question.size());
      CHECK(text.compare(text.size() - question.size(), question.size(), question) == 0);
      const std::size_t at = text.find(needle);
      REQUIRE(at != std::string::npos);
      CHECK(text.find(haystack.key, at + needle.size()) == std::string::npos);
      // Sentences are at most 60 characters long, so a boundary is within 30 of the depth.
      const double room = static_cast<double>(text.size() - opening.size() - question.size() - needle.size());
      CHECK(std::abs(static_cast<double>(at - opening.size()) - room * static_cast<double>(depth) / 100) <= 31);
      if (depth == 0) CHECK(at == opening.size());
      if (depth == 100) CHECK(at + needle.size() + question.size() == text.size());
    }
}

TEST_CASE("haystacks are equal for equal seeds and differ for different seeds") {
  BytesEncoder bytes;
  const auto text = [&](std::int64_t length, std::int64_t depth, std::uint64_t seed, std::int64_t sample) {
    return bytes.text(make_haystack(bytes.encoder, length, depth, seed, sample));
  };
  CHECK(text(600, 50, 1, 2) == text(600, 50, 1, 2));
  CHECK(text(600, 50, 1, 2) != text(600, 50, 2, 2));
  CHECK(text(600, 50, 1, 2) != text(600, 50, 1, 3));
  std::set<std::string> keys;
  for (std::int64_t sample = 0; sample < 50; ++sample) keys.insert(make_haystack(bytes.encoder, 300, 0, 1, sample).key);
  CHECK(keys.size() > 48);
  // Depth moves the needle only.
  CHECK(make_haystack(bytes.encoder, 600, 0, 1, 2).key == make_haystack(bytes.encoder, 600, 90, 1, 2).key);
  check_error(error_of([&] { text(100, 50, 1, 2); }), "--lengths 100", "133");
}

TEST_CASE("an answer is right when its digits equal the key") {
  CHECK(is_right_answer("12345", "12345"));
  CHECK(is_right_answer(" 12345.", "12345"));
  CHECK(is_right_answer("\n 12345 is", "12345"));
  CHECK_FALSE(is_right_answer("123456", "12345"));
  CHECK_FALSE(is_right_answer("1234", "12345"));
  CHECK_FALSE(is_right_answer("12354", "12345"));
  CHECK_FALSE(is_right_answer("is 12345", "12345"));
  CHECK_FALSE(is_right_answer("", "12345"));
}

TEST_CASE("right answers are counted in the cell of their length and depth") {
  BytesEncoder bytes;
  const NeedleOptions options{.lengths = {200, 400, 800}, .depths = {0, 50, 100}, .samples = 7, .rows = 4};
  // Finds the number only before the 250th byte, and gets the odd ones wrong.
  std::size_t most = 0;
  const GenerateFn generate_fn = [&](std::span<const TokenIds> prompts) {
    most = std::max(most, prompts.size());
    std::vector<TokenIds> said;
    for (const TokenIds& prompt : prompts) {
      CHECK(prompt.size() == prompts[0].size());
      const std::string text = bytes.encoder.tokenizer().decode(prompt), sentence = " The secret number is ";
      const std::size_t at = text.find(sentence);
      std::string key = concat(" ", text.substr(at + sentence.size(), 5), ".");
      if (at >= 250) key = " 00000.";
      if ((key[5] - '0') % 2) key[1] = '0';
      said.push_back(bytes.encoder.encode_plain(key));
    }
    return said;
  };
  int even = 0;
  for (std::int64_t sample = 0; sample < options.samples; ++sample)
    even += (make_haystack(bytes.encoder, 200, 0, options.seed, sample).key[4] - '0') % 2 == 0;
  REQUIRE(even > 0);
  REQUIRE(even < 7);
  const double all = even / 7.0;
  SingleComm comm;
  CHECK(find_needles(comm, bytes.encoder, options, generate_fn) ==
        NeedleGrid{{all, all, all}, {all, all, 0}, {all, 0, 0}});
  CHECK(most == 4);
}

TEST_CASE("the needle table has one line per depth and a mean line") {
  const NeedleOptions options{.lengths = {512, 1024}, .depths = {0, 100}, .samples = 4};
  CHECK(needle_table(options, {{1, 0.25}, {0.5, 0}}) ==
        "depth           512     1024\n"
        "0 %           100.0     25.0\n"
        "100 %          50.0      0.0\n"
        "mean           75.0     12.5\n");
}

TEST_CASE("ssa_eval --needle prints one table per setting and writes JSON, on any number of ranks") {
  const TempDir directory;
  write_random_model(directory.path() / "model", small_bytes_model(), Method::ssa, 5);
  const auto run = [&](const std::string& output, int ranks) {
    return run_program({"ssa_eval", "--model", "model", "--device", "cpu", "--needle", "--lengths", "160,200",
                        "--depths", "0,100", "--samples", "3", "--block-counts", "2,5", "--output", output},
                       {.directory = directory.path(), .ranks = ranks});
  };
  const ProgramResult one = run("one.json", 1), two = run("two.json", 2);
  INFO(one.out << one.err << two.err);
  REQUIRE(one.exit_code == 0);
  REQUIRE(two.exit_code == 0);
  for (const char* text : {"needle, sparse 2x4: percent of right answers in 3 samples", "needle, sparse 5x4:",
                           "needle, full:", "depth           160      200", "100 %           0.0      0.0"})
    CHECK_THAT(one.out, has(text));
  CHECK(one.out == two.out);
  const auto read = [&](const char* name) { return nlohmann::json::parse(ssa::read_file(directory.path() / name)); };
  const nlohmann::json documents = read("one.json"), of_two_ranks = read("two.json");
  REQUIRE(documents.size() == 3);
  for (std::size_t i = 0; i < 3; ++i) {
    const nlohmann::json& needle = documents[i].at("needle");
    CHECK(needle == of_two_ranks[i].at("needle"));
    CHECK(needle.at("lengths") == std::vector<int>{160, 200});
    CHECK(needle.at("depths") == std::vector<int>{0, 100});
    CHECK(needle.at("samples") == 3);
    // A random model does not know the number.
    CHECK(needle.at("accuracy") == std::vector<std::vector<double>>{{0, 0}, {0, 0}});
  }
  CHECK(documents[1].at("config").at("model_args").at("block_counts") == 5);
  CHECK(documents[2].at("config").at("model_args").at("mode") == "full");
}

TEST_CASE("ssa_eval --needle: bad input is an error that names it") {
  const TempDir directory;
  write_random_model(directory.path() / "model", small_bytes_model(), Method::ssa, 5);
  const auto fails = [&](Arguments more, const Arguments& parts) {
    Arguments all = {"ssa_eval", "--model", "model", "--device", "cpu", "--needle"};
    all.insert(all.end(), more.begin(), more.end());
    check_fails(run_program(all, {.directory = directory.path()}), kExitUsage, parts);
  };
  fails({}, {"--needle", "--lengths"});
  fails({"--lengths", "512,"}, {"--lengths", "integer"});
  fails({"--lengths", "512,many"}, {"--lengths many"});
  fails({"--lengths", "100"}, {"--lengths 100", "133"});
  fails({"--lengths", "512", "--depths", "0,101"}, {"--depths 101", "100"});
  fails({"--lengths", "512", "--samples", "0"}, {"--samples 0"});
}
