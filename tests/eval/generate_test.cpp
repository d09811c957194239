// Choosing tokens, and continuing prompts with a random model. Tests the mechanism, not the text.
#include "ssa/eval/generate.h"

#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>

#include "kernels/matmul/matmul.h"
#include "support/catch.h"
#include "support/error_of.h"
#include "support/random_model.h"
#include "support/run_program.h"
#include "support/temp_dir.h"

using namespace ssa;
using namespace ssa::eval;
using namespace ssa::test;

namespace {

std::vector<float> logits_of(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)) + 3);
  return logits;
}

std::vector<std::int32_t> ids_of(const std::vector<Candidate>& candidates) {
  std::vector<std::int32_t> ids;
  for (const Candidate& c : candidates) ids.push_back(c.id);
  return ids;
}

using Ids = std::vector<std::int32_t>;

/// A loaded model.
struct Loaded {
  TempDir directory;
  Stream stream{DeviceKind::cpu};
  ModelSource source;
  LoadedModel loaded;
  Setting setting;

  explicit Loaded(Method method = Method::ssa, const Overrides& overrides = {})
      : source(written(directory.path() / "model", method)),
        loaded(stream, source),
        setting(generation_setting(source, overrides)) {}

  static std::filesystem::path written(const std::filesystem::path& path, Method method) {
    write_random_model(path, small_bytes_model(), method, 5);
    return path;
  }

  /// The logits after the last of `ids`, from a forward pass over them.
  std::vector<float> logits_after(const TokenIds& ids) {
    Decoder fresh = make_decoder(stream, loaded, setting, 1, static_cast<std::int64_t>(ids.size()),
                                 static_cast<std::int64_t>(ids.size()));
    const std::span<const float> logits = fresh.prefill(0, ids);
    return {logits.begin(), logits.end()};
  }
};

TokenIds text_ids(const std::string& text) {
  TokenIds ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

}  // namespace

TEST_CASE("candidates are the fewest most probable tokens that reach top_p") {
  const std::vector<float> logits = logits_of({0.15, 0.5, 0.05, 0.3});
  CHECK(ids_of(candidates(logits, 1, 1)) == Ids{1, 3, 0, 2});
  CHECK(ids_of(candidates(logits, 1, 0.96)) == Ids{1, 3, 0, 2});
  CHECK(ids_of(candidates(logits, 1, 0.94)) == Ids{1, 3, 0});
  CHECK(ids_of(candidates(logits, 1, 0.81)) == Ids{1, 3, 0});
  CHECK(ids_of(candidates(logits, 1, 0.79)) == Ids{1, 3});
  CHECK(ids_of(candidates(logits, 1, 0.49)) == Ids{1});
  CHECK(ids_of(candidates(logits, 1, 1e-9)) == Ids{1});
  const std::vector<Candidate> two = candidates(logits, 1, 0.79);
  CHECK(std::abs(two[0].probability - 0.5 / 0.8) < 1e-6);
  CHECK(std::abs(two[1].probability - 0.3 / 0.8) < 1e-6);
  // At temperature 1/2 probabilities are squared, then renormalized: 0.25 0.09 0.0225 0.0025.
  const std::vector<Candidate> cold = candidates(logits, 0.5, 1);
  CHECK(std::abs(cold[0].probability - 0.25 / 0.365) < 1e-6);
  CHECK(ids_of(candidates(logits, 0.5, 0.69)) == Ids{1, 3});
  CHECK(ids_of(candidates(logits, 0.5, 0.68)) == Ids{1});
  // Equal probabilities: the lower id first.
  CHECK(ids_of(candidates(logits_of({0.1, 0.2, 0.2, 0.2, 0.2, 0.1}), 1, 0.5)) == Ids{1, 2, 3});
}

TEST_CASE("tokens are drawn with their probabilities") {
  const std::vector<double> probabilities = {0.15, 0.5, 0.05, 0.3};
  const std::vector<float> logits = logits_of(probabilities);
  constexpr int kDraws = 20000;
  std::vector<int> all(4), some(4);
  for (std::uint64_t i = 0; i < kDraws; ++i) {
    ++all[static_cast<std::size_t>(choose_token(logits, {.temperature = 1, .seed = 3}, 0, i))];
    ++some[static_cast<std::size_t>(choose_token(logits, {.temperature = 1, .top_p = 0.79, .seed = 3}, i, 7))];
  }
  for (std::size_t i = 0; i < 4; ++i) {
    // Five standard deviations.
    const double p = probabilities[i], kept = p > 0.2 ? p / 0.8 : 0;
    CHECK(std::abs(all[i] - kDraws * p) < 5 * std::sqrt(kDraws * p * (1 - p)));
    CHECK(std::abs(some[i] - kDraws * kept) <= 5 * std::sqrt(kDraws * kept * (1 - kept)));
  }
}

TEST_CASE("logits that are not finite are an error, at every temperature") {
  constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();
  for (const float temperature : {0.0f, 0.7f}) {
    const auto refused = [&](const std::vector<float>& logits, const std::string& found) {
      INFO("temperature " << temperature);
      check_error(error_of([&] { choose_token(logits, {.temperature = temperature}, 3, 12); }),
                  "generation: the logits after 12 tokens are not finite: " + found);
    };
    for (const float value : {kNan, kInfinity, -kInfinity}) {
      std::vector<float> logits(100, 1.0f);
      logits[7] = value;
      refused(logits, "token 7 has ");
    }
    refused(std::vector<float>(100, kNan), "token 0 has nan");
  }
}

TEST_CASE("a draw depends on seed, sequence and position only") {
  const std::vector<float> logits(1000, 0.0f);
  const auto draw = [&](std::uint64_t seed, std::uint64_t sequence, std::uint64_t position) {
    return choose_token(logits, {.temperature = 0.7, .seed = seed}, sequence, position);
  };
  CHECK(draw(1, 2, 3) == draw(1, 2, 3));
  std::set<std::int32_t> different;
  for (std::uint64_t i = 0; i < 10; ++i) different.insert({draw(i, 0, 0), draw(100, i, 0), draw(100, 100, i)});
  CHECK(different.size() > 25);                                        // of 30 draws from 1000
  CHECK(choose_token(std::vector<float>{1, 4, 2, 4}, {}, 0, 0) == 1);  // greedy: ties to the lower id
}

TEST_CASE("greedy generation takes the forward pass's largest logit, for every method and mode") {
  struct Case {
    Method method;
    const char* mode;
  };
  for (const Case& c : {Case{Method::ssa, "sparse"}, Case{Method::ssa, "full"}, Case{Method::full, "both"},
                        Case{Method::moba, "both"}, Case{Method::nsa, "sparse"}}) {
    INFO(name_of(c.method) << " " << c.mode);
    Loaded m(c.method, {.mode = c.mode});
    CHECK(m.setting.mode() == (c.method == Method::full || c.mode == std::string("full") ? "full" : "sparse"));
    const std::vector<TokenIds> prompts = {text_ids("A prompt of some length."), text_ids("B"), text_ids("And")};
    Decoder decoder = make_decoder(m.stream, m.loaded, m.setting, 4, 60, 24);
    const std::vector<TokenIds> texts =
        continue_prompts(decoder, prompts, {.max_new_tokens = 20, .end_token = -1, .vocab_size = 257});
    REQUIRE(texts.size() == 3);
    for (std::size_t row = 0; row < 3; ++row) {
      TokenIds so_far = prompts[row];
      REQUIRE(texts[row].size() == 20);
      for (const std::int32_t id : texts[row]) {
        REQUIRE(id == choose_token(m.logits_after(so_far), {}, 0, 0));
        so_far.push_back(id);
      }
    }
  }
}

TEST_CASE("generation ends per sequence: at the end token, at max_new_tokens or when the cache is full") {
  Loaded m;
  const std::vector<TokenIds> prompts = {text_ids("One two three"), text_ids("four")};
  Decoder decoder = make_decoder(m.stream, m.loaded, m.setting, 2, 20, 13);
  const ContinueOptions options{.max_new_tokens = 100, .end_token = -1, .vocab_size = 257};
  const std::vector<TokenIds> whole = continue_prompts(decoder, prompts, options);
  // The last chosen token needs no place in the cache.
  CHECK(whole[0].size() == 20 - 13 + 1);
  CHECK(whole[1].size() == 20 - 4 + 1);

  ContinueOptions few = options;
  few.max_new_tokens = 1;
  CHECK(continue_prompts(decoder, prompts, few) == std::vector<TokenIds>{{whole[0][0]}, {whole[1][0]}});

  // An end token that only the second sequence reaches, after some tokens.
  std::size_t at = 1;
  const auto is_new = [&](std::size_t i) {
    const TokenIds before(whole[1].begin(), whole[1].begin() + static_cast<std::ptrdiff_t>(i));
    return std::count(before.begin(), before.end(), whole[1][i]) == 0 &&
           std::count(whole[0].begin(), whole[0].end(), whole[1][i]) == 0;
  };
  while (at < whole[1].size() && !is_new(at)) ++at;
  REQUIRE(at < whole[1].size());
  ContinueOptions ending = options;
  ending.end_token = whole[1][at];
  const std::vector<TokenIds> ended = continue_prompts(decoder, prompts, ending);
  CHECK(ended[0] == whole[0]);
  CHECK(ended[1] == TokenIds(whole[1].begin(), whole[1].begin() + static_cast<std::ptrdiff_t>(at)));

  // Ids that the tokenizer does not know are never chosen.
  ContinueOptions low = options;
  low.vocab_size = 40;
  low.sampling = {.temperature = 5};
  for (const TokenIds& text : continue_prompts(decoder, prompts, low))
    for (const std::int32_t id : text) CHECK(id < 40);
}

TEST_CASE("sampled text depends on the seed and the sequence, not on the rest of the batch") {
  Loaded m;
  const std::vector<TokenIds> prompts = {text_ids("same prompt"), text_ids("same prompt")};
  Decoder decoder = make_decoder(m.stream, m.loaded, m.setting, 2, 50, 11);
  ContinueOptions options{
      .max_new_tokens = 30, .end_token = -1, .vocab_size = 257, .sampling = {.temperature = 1.5, .seed = 1}};
  const std::uint64_t sequences[] = {7, 9};
  const std::vector<TokenIds> texts = continue_prompts(decoder, prompts, options, sequences);
  CHECK(texts[0] != texts[1]);
  CHECK(continue_prompts(decoder, prompts, options, sequences) == texts);
  CHECK(continue_prompts(decoder, std::span(prompts).first(1), options, std::span(sequences).subspan(1))[0] ==
        texts[1]);
  std::vector<TokenIds> heard(2);
  continue_prompts(decoder, prompts, options, sequences,
                   [&](std::size_t row, std::int32_t id) { heard[row].push_back(id); });
  CHECK(heard == texts);
  options.sampling.seed = 2;
  CHECK(continue_prompts(decoder, prompts, options, sequences)[0] != texts[0]);
}

TEST_CASE("ssa_eval --generate prints the prompt and its continuation") {
  const TempDir directory;
  write_random_model(directory.path() / "model", small_bytes_model(), Method::ssa, 5);
  const auto generate = [&](Arguments more, int ranks = 1) {
    Arguments all = {"ssa_eval", "--model", "model", "--device", "cpu", "--generate"};
    all.insert(all.end(), more.begin(), more.end());
    const ProgramResult result = run_program(all, {.directory = directory.path(), .ranks = ranks});
    INFO(result.err);
    CHECK(result.exit_code == 0);
    return result;
  };
  const ProgramResult greedy = generate({"A prompt", "--max-new-tokens", "9"});
  REQUIRE(greedy.out.size() == 8 + 9 + 1);
  CHECK(greedy.out.rfind("A prompt", 0) == 0);
  CHECK_THAT(greedy.err, has("sparse 3x4 attention: prompt of 8 tokens"));
  CHECK_THAT(greedy.err, has("9 new tokens"));
  CHECK(generate({"A prompt", "--max-new-tokens", "9"}, 2).out == greedy.out);
  const Arguments sampled = {"A prompt", "--temperature", "2", "--top-p", "0.9", "--max-new-tokens", "40"};
  Arguments other_seed = sampled;
  other_seed.insert(other_seed.end(), {"--seed", "1"});
  CHECK(generate(sampled).out == generate(sampled).out);
  CHECK(generate(sampled).out != generate(other_seed).out);
  const ProgramResult full = generate({"A prompt of more than some blocks", "--mode", "full"});
  CHECK_THAT(full.err, has("full attention: prompt of 33 tokens"));
  const std::string sparse = generate({"A prompt of more than some blocks"}).out;
  CHECK(full.out != sparse);
  CHECK(generate({"A prompt of more than some blocks", "--block-counts", "100"}).out == full.out);
  CHECK(generate({"", "--max-new-tokens", "3"}).err.find("prompt of 1 tokens") != std::string::npos);
}

TEST_CASE("ssa_eval --generate: bad input is an error that names it") {
  const TempDir directory;
  write_random_model(directory.path() / "model", small_bytes_model(), Method::ssa, 5);
  write_random_model(directory.path() / "nsa", small_bytes_model(), Method::nsa, 5);
  write_random_model(directory.path() / "full", small_bytes_model(), Method::full, 5);
  ModelConfig other = small_bytes_model();
  other.eos_token_id = 3;
  write_random_model(directory.path() / "other", other, Method::ssa, 5);
  other = small_bytes_model();
  other.vocab_size = 200;
  other.bos_token_id = other.eos_token_id = 199;
  write_random_model(directory.path() / "small", other, Method::ssa, 5);
  const auto fails = [&](const std::string& model, Arguments more, int exit_code, const Arguments& parts) {
    Arguments all = {"ssa_eval", "--model", model, "--device", "cpu", "--generate", "Text"};
    all.insert(all.end(), more.begin(), more.end());
    check_fails(run_program(all, {.directory = directory.path()}), exit_code, parts);
  };
  fails("model", {"--temperature", "-1"}, kExitUsage, {"--temperature -1", "0"});
  fails("model", {"--temperature", "warm"}, kExitUsage, {"--temperature warm", "number"});
  fails("model", {"--top-p", "0"}, kExitUsage, {"--top-p 0"});
  fails("model", {"--top-p", "1.5"}, kExitUsage, {"--top-p 1.5", "1"});
  fails("model", {"--top-p", "0.9"}, kExitUsage, {"--top-p needs a --temperature above 0"});
  fails("model", {"--mode", "both"}, kExitUsage, {"--mode both", "sparse or full"});
  fails("model", {"--output", "out.json"}, kExitUsage, {"--output needs --data, --text, --tasks or --needle"});
  fails("model", {"--max-length", "64"}, kExitUsage, {"--max-length needs --data, --text or --tasks"});
  fails("model", {"--rows", "2"}, kExitUsage, {"--rows needs --data, --text, --tasks or --needle"});
  fails("model", {"--max-new-tokens", "0"}, kExitUsage, {"--max-new-tokens 0"});
  fails("model", {"--seed", "3"}, kExitUsage, {"--seed needs --generate with a --temperature above 0"});
  fails("model", {"--seed", "-3"}, kExitUsage, {"--seed -3"});
  fails("model", {"--seed"}, kExitUsage, {"--seed needs a value"});
  fails("model", {"--block-counts", "2,3"}, kExitUsage, {"--block-counts", "2 numbers", "one"});
  fails("full", {"--block-counts", "2"}, kExitUsage,
        {"--block-counts needs --mode sparse", "full is a model of method full", "--generate"});
  fails("full", {"--block-size", "8"}, kExitUsage, {"--block-size needs --mode sparse"});
  fails("nsa", {"--mode", "full"}, kExitUsage, {"nsa", "no full attention"});
  fails("model", {"--tokenizer", "nowhere.json"}, kExitUsage, {"nowhere.json"});
  fails("other", {"--tokenizer", "bytes"}, kExitFailed, {"tokenizer bytes", "other", "256", "3"});
  fails("small", {"--tokenizer", "bytes"}, kExitFailed, {"tokenizer bytes", "small", "257", "200"});
  fails("small", {}, kExitUsage, {"small", "--tokenizer"});
  fails("nowhere", {}, kExitFailed, {"nowhere"});
}
