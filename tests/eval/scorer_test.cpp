// Scores compared with training's forward pass.
#include "ssa/eval/scorer.h"

#include <malloc.h>

#include <cmath>

#include "eval/byte_model.h"
#include "ssa/eval/position_loss.h"
#include "ssa/eval/run_task.h"
#include "support/error_of.h"
#include "support/make_dataset.h"
#include "support/sanitized.h"
#include "support/test_model.h"

using namespace ssa;
using namespace ssa::eval;
using namespace ssa::test;

namespace {

TokenIds random_ids(std::int64_t count, std::uint64_t seed) {
  TokenIds ids;
  for (std::int64_t i = 0; i < count; ++i)
    ids.push_back(
        static_cast<std::int32_t>(random_bits(seed, RandomPurpose::test, 0, static_cast<std::uint64_t>(i)) % 256));
  return ids;
}

struct Bench : LoadedByteModel {
  using LoadedByteModel::LoadedByteModel;

  Setting setting(const std::string& mode, std::int64_t blocks = 0) const {
    Overrides overrides{.mode = mode};
    if (blocks) overrides.block_counts = {blocks};
    return settings_of(model.source(), overrides).at(0);
  }
  std::vector<Score> scores(const Setting& setting, const std::vector<Request>& requests, std::int64_t rows,
                            bool greedy = false) {
    ForwardPass pass(stream, loaded, setting);
    return score(pass, comm, requests, {.rows = rows, .max_length = 64, .greedy = greedy});
  }
};

/// The score of one request alone, by training's forward pass.
double trained_score(Bench& bench, const Setting& setting, const Request& request) {
  const TokenIds input = model_input(request, 64);
  const auto T = static_cast<std::int64_t>(input.size());
  TestModel model(setting.model, {.rows = 1, .tokens = T, .path = setting.path, .backward = false}, setting.selection);
  const auto parameters = published_parameters(setting.model);
  load_master_weights(model.stream, model.state, [&](std::size_t i, std::span<float> out, std::int64_t first) {
    bench.model.source().read(parameters[i], out, first);
  });
  HostBatch batch{.ids = input, .targets = TokenIds(input.size(), -100), .positions = {}, .full_stream = {0}};
  const std::size_t first = input.size() - request.continuation.size();
  for (std::size_t i = 0; i < request.continuation.size(); ++i) batch.targets[first + i] = request.continuation[i];
  for (std::int64_t t = 0; t < T; ++t) batch.positions.push_back(static_cast<std::int32_t>(t));
  model.upload(batch);
  evaluate(model.stream, model.state.model(), model.state.batch, model.state.sums.losses());
  return -model.state.sums.read(model.stream).ce;
}

std::vector<Request> some_requests() {
  std::vector<Request> requests;
  for (const auto& [context, continuation] : {std::pair{1, 1}, {30, 4}, {5, 9}, {63, 2}, {64, 20}, {7, 1}, {2, 63}})
    requests.push_back({.context = random_ids(context, 1 + requests.size()),
                        .continuation = random_ids(continuation, 100 + requests.size())});
  return requests;
}

}  // namespace

TEST_CASE("score: stop is asked after each batch and ends the work") {
  const auto requests = some_requests();
  Bench bench("ssa");
  ForwardPass pass(bench.stream, bench.loaded, bench.setting("full"));
  int asked = 0, last = 3;
  const ScoreOptions options{.rows = 2, .max_length = 64, .stop = [&] { return ++asked == last; }};
  CHECK(score(pass, bench.comm, requests, options).empty());
  CHECK(asked == 3);
  asked = 0;
  last = 5;  // 7 requests are 4 batches
  CHECK(score(pass, bench.comm, requests, options).size() == requests.size());
  CHECK(asked == 4);
}

TEST_CASE("a log-likelihood does not depend on the other requests in its batch") {
  const auto requests = some_requests();
  for (const char* method : {"ssa", "nsa"}) {
    Bench bench(method);
    for (const std::string mode : {"sparse", "full"}) {
      if (std::string(method) == "nsa" && mode == "full") continue;
      INFO(method << " " << mode);
      const Setting setting = bench.setting(mode, mode == "sparse" ? 2 : 0);
      for (const std::int64_t rows : {1, 3, 8}) {
        const auto scores = bench.scores(setting, requests, rows);
        for (std::size_t i = 0; i < requests.size(); ++i)
          CHECK(std::abs(scores[i].log_likelihood - trained_score(bench, setting, requests[i])) <
                2e-4);  // f32, up to 63 terms of 5
      }
    }
  }
}

TEST_CASE("greedy is true exactly when greedy decoding gives the continuation") {
  Bench bench;
  const Setting setting = bench.setting("full");
  std::vector<Request> requests = some_requests();
  for (Request& request : requests) request.continuation.resize(1);
  // The most likely token of the first request, found by trying all.
  std::vector<Request> all;
  for (std::int32_t id = 0; id < 272; ++id) all.push_back({.context = requests[1].context, .continuation = {id}});
  const auto scores = bench.scores(setting, all, 16, true);
  std::size_t best = 0;
  int greedy = 0;
  for (std::size_t id = 0; id < all.size(); ++id) {
    if (scores[id].log_likelihood > scores[best].log_likelihood) best = id;
    greedy += scores[id].greedy;
  }
  CHECK(greedy == 1);
  CHECK(scores[best].greedy);
}

TEST_CASE("sparse attention equals full attention when every block is selected, and not with one block") {
  Bench bench;
  const auto requests = some_requests();
  const auto full = bench.scores(bench.setting("full"), requests, 4);
  const auto all = bench.scores(bench.setting("sparse", 16), requests, 4);
  const auto one = bench.scores(bench.setting("sparse", 1), requests, 4);
  for (std::size_t i = 0; i < requests.size(); ++i)
    CHECK(std::abs(full[i].log_likelihood - all[i].log_likelihood) < 2e-4);
  CHECK(std::abs(full[4].log_likelihood - one[4].log_likelihood) > 1e-3);
}

TEST_CASE("batches take the longest requests first and contain each once") {
  const auto requests = some_requests();
  using Batches = std::vector<std::vector<std::size_t>>;
  // Inputs of 1, 33, 13, 64, 64 (83 before it is cut), 7 and 64 tokens.
  const ScoreOptions one{.rows = 1, .max_length = 64}, three{.rows = 3, .max_length = 64};
  CHECK(batches_of(requests, three, 0) == Batches{{4, 3, 6}, {1, 2, 5}, {0}});
  CHECK(batches_of(requests, three, 100) == Batches{{4, 3, 6}, {1, 2, 5}, {0}});
  CHECK(batches_of(requests, one, 64) == Batches{{4}, {3}, {6}, {1}, {2, 5, 0}});
  CHECK(batches_of(requests, one, 128) == Batches{{4, 3}, {6, 1}, {2, 5, 0}});
  CHECK(batches_of({}, one, 64).empty());
  const std::vector<Request> short_ones(3000, {.context = {1}, .continuation = {2}});
  const auto batches = batches_of(short_ones, one, 16384);
  REQUIRE(batches.size() == 3);
  CHECK((batches[0].size() == 1024 && batches[1].size() == 1024 && batches[2].size() == 952));
  CHECK(batch_tokens({.rows = 8, .max_length = 131072}, DeviceKind::cuda) == 16384);
  CHECK(batch_tokens({.rows = 8, .max_length = 100}, DeviceKind::cuda) == 800);
  CHECK(batch_tokens({.rows = 8, .max_length = 131072}, DeviceKind::cpu) == 0);
}

TEST_CASE("a continuation is normalized by its code points") {
  // Equal likelihood per byte; per code point the accented one's is higher.
  CHECK(choose({-6.0, -8.0}, {"aaa", "éééé"}).best == 0);
  CHECK(choose({-6.0, -7.0}, {"aaa", "éééé"}).best_norm == 1);
  CHECK(choose({-6.0, -7.0}, {"aaaaaa", "ééé"}).best_norm == 0);
  CHECK(choose({-2.0, -2.0}, {"a", "b"}).best == 0);
}

TEST_CASE("text perplexities count words and bytes like the harness") {
  Bench bench;
  ssa::test::write_file(bench.model.directory() / "a.txt", "One two.\n\nThree é");
  ssa::test::write_file(bench.model.directory() / "b.txt", std::string(150, 'x'));
  const Task task =
      text_task({(bench.model.directory() / "a.txt").string(), (bench.model.directory() / "b.txt").string()});
  TextEncoder encoder("bytes", bench.model.source());
  const Setting setting = bench.setting("sparse");
  ForwardPass pass(bench.stream, bench.loaded, setting);
  const auto run = [&](std::int64_t stride) {
    return run_task(pass, bench.comm, encoder, task, {.max_length = 64, .stride = stride, .samples = true});
  };
  const TaskResult result = run(0);
  double sum = 0;
  for (const auto& sample : result.samples) sum += sample.at("filtered_resps").at(0).get<double>();
  REQUIRE(result.metrics.size() == 3);
  CHECK(std::abs(std::log(result.metrics[0].value) * (4 + 1) + sum) < 1e-9 * -sum);
  CHECK(std::abs(std::log(result.metrics[1].value) * (18 + 150) + sum) < 1e-9 * -sum);
  CHECK(std::abs(result.metrics[2].value * std::log(2.0) * (18 + 150) + sum) < 1e-9 * -sum);
  CHECK_FALSE(result.metrics[0].standard_error.has_value());
  // With stride 1 each token has all the context that fits; the first window is the same.
  const TaskResult moved = run(1);
  CHECK(moved.samples[0].at("filtered_resps") == result.samples[0].at("filtered_resps"));
  CHECK(moved.samples[1].at("filtered_resps") != result.samples[1].at("filtered_resps"));
}

TEST_CASE("a forward pass works after a batch for which the device has no memory") {
  if (kSanitized) return;  // AddressSanitizer ends a process that asks for so much
  Bench bench;
  ForwardPass pass(bench.stream, bench.loaded, bench.setting("full"));
  const RowBatch batch{.ids = {random_ids(50, 1)}, .targets = {random_ids(50, 2)}};
  const auto losses = pass.losses(batch);
  make_dataset(bench.model.directory() / "data", {{random_ids(40, 3)}});
  const DatasetRows data(bench.model.directory() / "data", bench.model.source().config(), 32);
  constexpr std::int64_t kTooMany = std::int64_t{1} << 36;  // rows of 32 tokens: more bytes than addresses of a process
  ::mallopt(M_PERTURB, 165);                                // overwrites memory that is freed
  check_error(error_of([&] { pass.dataset_loss(bench.comm, data.loader(), kTooMany, {}); }), "out of memory");
  ::mallopt(M_PERTURB, 0);
  CHECK(pass.losses(batch) == losses);
}
