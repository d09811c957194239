#include "ssa/eval/position_loss.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "eval/byte_model.h"
#include "support/make_dataset.h"
#include "support/run_program.h"

using namespace ssa;
using namespace ssa::eval;
using namespace ssa::test;
using nlohmann::json;

namespace {

/// Documents of 1 to 20, 33 and 60 tokens.
Documents some_documents() {
  Documents documents;
  for (std::int64_t length = 1; length <= 20; ++length) documents.emplace_back(static_cast<std::size_t>(length), 0);
  for (const std::size_t length : {33u, 60u}) documents.emplace_back(length, 0);
  for (std::size_t d = 0; d < documents.size(); ++d) {
    for (std::size_t t = 0; t < documents[d].size(); ++t)
      documents[d][t] = static_cast<std::int32_t>((7 * d + t * t) % 256);
    documents[d].back() = 256;
  }
  return documents;
}

}  // namespace

TEST_CASE("position loss: each token is counted in the bucket of the tokens before it in its piece") {
  LoadedByteModel bench;
  make_dataset(bench.model.directory() / "data", {some_documents()});
  ForwardPass pass(bench.stream, bench.loaded, settings_of(bench.model.source(), {}).at(0));
  const DatasetRows data(bench.model.directory() / "data", bench.model.source().config(), 32);
  const PositionLoss found = position_loss(pass, bench.comm, data, 3);
  REQUIRE(found.buckets.size() == 5);  // 16 to 31 is the last: pieces have at most 32 tokens

  // Document by document: every token but the first of each piece of 32.
  std::vector<std::int64_t> tokens(5, 0);
  for (const TokenIds& document : some_documents())
    for (std::int64_t t = 0; t < std::ssize(document); ++t)
      if (t % 32 > 0) ++tokens[static_cast<std::size_t>(std::floor(std::log2(t % 32)))];
  for (std::size_t k = 0; k < 5; ++k) CHECK(found.buckets[k].tokens == tokens[k]);

  const EvalSums total = found.total(), expected = pass.dataset_loss(bench.comm, data.loader(), 3, {});
  CHECK(total.labels == expected.labels);
  CHECK(std::abs(total.ce - expected.ce) < 1e-6 * expected.ce);  // f32 losses, added in f64 in another order
  const json list = to_json(found);
  CHECK(list[3]["from"] == 8);
  CHECK(list[3]["to"] == 15);
  CHECK(list[3]["loss"].get<double>() == found.buckets[3].loss / static_cast<double>(tokens[3]));
}

TEST_CASE("ssa_eval: loss by position, of long documents only, on several ranks") {
  const ByteModel model;
  make_dataset(model.directory() / "data", {some_documents()});
  const auto run = [&](const Arguments& more, int ranks) {
    Arguments all = {"ssa_eval",     "--model",     "model",  "--device", "cpu",    "--data", "data",
                     "--max-length", "64",          "--rows", "2",        "--mode", "sparse", "--loss-by-position",
                     "--output",     "results.json"};
    all.insert(all.end(), more.begin(), more.end());
    const ProgramResult result = run_program(all, {.directory = model.directory(), .ranks = ranks});
    INFO(result.err);
    REQUIRE(result.exit_code == 0);
    CHECK_THAT(result.out, has("loss by position"));
    return json::parse(ssa::read_file(model.directory() / "results.json"));
  };
  const json one = run({}, 1), two = run({}, 2), only_long = run({"--min-document-tokens", "33"}, 1);
  REQUIRE(one["loss_by_position"].size() == 6);
  for (std::size_t k = 0; k < 6; ++k) {
    const json &a = one["loss_by_position"][k], &b = two["loss_by_position"][k], &c = only_long["loss_by_position"][k];
    CHECK(a["tokens"] == b["tokens"]);
    CHECK(std::abs(a["loss"].get<double>() - b["loss"].get<double>()) < 1e-12);  // f64 sums in another order
    // Of the documents of 33 and 60 tokens.
    const std::int64_t from = c["from"], to = c["to"];
    CHECK(c["tokens"] == std::min<std::int64_t>(to, 32) - std::min<std::int64_t>(from - 1, 32) +
                             std::min<std::int64_t>(to, 59) - std::min<std::int64_t>(from - 1, 59));
  }
  CHECK(only_long["n-samples"]["data"]["effective"] == 2);
  CHECK(only_long["n-samples"]["data"]["original"] == 22);
  check_fails(run_program({"ssa_eval", "--model", "model", "--data", "data", "--max-length", "64",
                           "--min-document-tokens", "61"},
                          {.directory = model.directory()}),
              1, {"0 documents of at least 61 tokens"});
  check_fails(run_program({"ssa_eval", "--model", "model", "--loss-by-position", "--generate", "x"},
                          {.directory = model.directory()}),
              2, {"--loss-by-position", "--data"});
}
