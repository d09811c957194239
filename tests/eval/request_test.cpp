// Expected windows and splits are lm-evaluation-harness's: get_rolling_token_windows with make_disjoint_window, and
// TemplateLM's encoding of pairs.
#include "ssa/eval/request.h"

#include "eval/byte_model.h"
#include "support/error_of.h"
#include "support/paths.h"

using namespace ssa;
using namespace ssa::eval;
using namespace ssa::test;

namespace {

using Windows = std::vector<std::pair<TokenIds, TokenIds>>;

/// Windows over the tokens 0, 1, 2, ... after the prefix token 99, max_length 4.
Windows windows(std::int32_t tokens, std::int64_t stride) {
  TokenIds ids;
  for (std::int32_t i = 0; i < tokens; ++i) ids.push_back(i);
  Windows result;
  for (const Request& r : rolling_requests(ids, 99, 4, stride)) result.emplace_back(r.context, r.continuation);
  return result;
}

TokenIds bytes(std::string_view text) {
  TokenIds ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

}  // namespace

TEST_CASE("rolling windows do not overlap, except the last, which has all the context that fits") {
  CHECK(windows(3, 4) == Windows{{{99}, {0, 1, 2}}});
  CHECK(windows(8, 4) == Windows{{{99}, {0, 1, 2, 3}}, {{3}, {4, 5, 6, 7}}});
  CHECK(windows(10, 4) == Windows{{{99}, {0, 1, 2, 3}}, {{3}, {4, 5, 6, 7}}, {{5, 6, 7}, {8, 9}}});
  CHECK(windows(0, 4).empty());
}

TEST_CASE("rolling windows with a stride keep max_length - stride tokens of context") {
  CHECK(windows(11, 3) ==
        Windows{{{99}, {0, 1, 2, 3}}, {{2, 3}, {4, 5, 6}}, {{5, 6}, {7, 8, 9}}, {{6, 7, 8, 9}, {10}}});
  CHECK(windows(7, 1) == Windows{{{99}, {0, 1, 2, 3}}, {{0, 1, 2, 3}, {4}}, {{1, 2, 3, 4}, {5}}, {{2, 3, 4, 5}, {6}}});
  check_error(error_of([] { windows(7, 5); }), "stride of 5", "1 to 4");
}

TEST_CASE("white space at the end of the context moves to the continuation") {
  const ByteModel model;
  TextEncoder encoder("bytes", model.source());
  const Request plain = make_request(encoder, "Answer:", " ice");
  CHECK(plain.context == bytes("Answer:"));
  CHECK(plain.continuation == bytes(" ice"));
  const Request moved = make_request(encoder, "Answer: \u00a0", "ice");
  CHECK(moved.context == bytes("Answer:"));
  CHECK(moved.continuation == bytes(" \u00a0ice"));
}

TEST_CASE("an empty context becomes the prefix token") {
  const ByteModel model;
  TextEncoder encoder("bytes", model.source());
  const Request request = make_request(encoder, "", "ice");
  CHECK(request.context == TokenIds{256});
  CHECK(request.continuation == bytes("ice"));
  check_error(error_of([&] { make_request(encoder, "x", ""); }), "adds no token");
}

TEST_CASE("context and continuation are encoded as one text and split where the context ends") {
  // A merge crosses the boundary: " there" is one token.
  const ByteModel model(641, 640);
  const std::string gpt2 = (ssa::test::source_dir() / "tests/tokenizer/gpt2.tokenizer.json").string();
  TextEncoder encoder(gpt2, model.source());
  const TokenIds whole = encoder.encode("The there is"), part = encoder.encode("The the");
  REQUIRE(whole.size() < part.size() + encoder.encode("re is").size());
  const Request request = make_request(encoder, "The the", "re is");
  CHECK(request.context == part);
  CHECK(request.continuation == TokenIds(whole.begin() + static_cast<std::ptrdiff_t>(part.size()), whole.end()));
  check_error(error_of([&] { make_request(encoder, " an", "d"); }), "continuation \"d\" adds no token");
}

TEST_CASE("a tokenizer template's special tokens are added once") {
  const TempDir directory;
  nlohmann::json tokenizer =
      nlohmann::json::parse(ssa::read_file((ssa::test::source_dir() / "tests/tokenizer/gpt2.tokenizer.json").string()));
  tokenizer["post_processor"] = {
      {"type", "Sequence"},
      {"processors",
       {{{"type", "ByteLevel"}},
        {{"type", "TemplateProcessing"},
         {"single", {{{"SpecialToken", {{"id", "<|endoftext|>"}}}}, {{"Sequence", {{"id", "A"}}}}}},
         {"special_tokens", {{"<|endoftext|>", {{"ids", {640}}}}}}}}}};
  ssa::test::write_file(directory / "tokenizer.json", tokenizer.dump());
  ssa::test::write_file(directory / "tokenizer_config.json",
                        R"({"bos_token": {"content": "<|endoftext|>"}, "eos_token": "<|endoftext|>"})");
  const ByteModel model(641, 640);
  TextEncoder encoder(directory.path().string(), model.source());
  CHECK(encoder.prefix_token() == 640);
  TokenIds expected = encoder.encode_plain("ice");
  expected.insert(expected.begin(), 640);
  CHECK(encoder.encode("ice") == expected);
  CHECK(encoder.encode("<|endoftext|>ice") == expected);
  CHECK(make_request(encoder, "", "ice").continuation == encoder.encode_plain("ice"));
}

TEST_CASE("an input longer than max_length is cut on the left") {
  const Request request{.context = {1, 2, 3, 4}, .continuation = {5, 6, 7}};
  CHECK(model_input(request, 10) == TokenIds{1, 2, 3, 4, 5, 6});
  CHECK(model_input(request, 6) == TokenIds{1, 2, 3, 4, 5, 6});
  CHECK(model_input(request, 4) == TokenIds{3, 4, 5, 6});
  CHECK(model_input(request, 3) == TokenIds{4, 5, 6});
  check_error(error_of([&] { model_input(request, 2); }), "a continuation of 3 tokens", "--max-length 2");
}

TEST_CASE("a tokenizer that does not fit the model is an error") {
  const ByteModel model;
  const std::string gpt2 = (ssa::test::source_dir() / "tests/tokenizer/gpt2.tokenizer.json").string();
  check_error(error_of([&] { TextEncoder(gpt2, model.source()); }), "gpt2.tokenizer.json", "641", "272");
  const ByteModel other(272, 257);
  check_error(error_of([&] { TextEncoder("bytes", other.source()); }), "end-of-text id is 256", "257");
  check_error(error_of([&] { find_tokenizer(other.source()); }), "no tokenizer", "272", "--tokenizer");
}
