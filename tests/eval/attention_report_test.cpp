#include "ssa/eval/attention_report.h"

#include <cmath>

#include "eval/byte_model.h"
#include "support/error_of.h"
#include "support/test_model.h"

using namespace ssa;
using namespace ssa::eval;
using namespace ssa::test;

namespace {

struct ReportBench : LoadedByteModel {
  using LoadedByteModel::LoadedByteModel;

  AttentionReport measure(const Overrides& overrides, const std::vector<TokenIds>& rows, std::int64_t batch = 8,
                          std::int64_t sink_tokens = 4) {
    return measure_attention(stream, comm, loaded, settings_of(model.source(), overrides).at(0), rows, batch,
                             sink_tokens);
  }
};

void check_close(const AttentionMeasures& a, const AttentionMeasures& b, double tolerance) {
  CHECK(std::abs(a.entropy - b.entropy) < tolerance);
  CHECK(std::abs(a.selected_mass - b.selected_mass) < tolerance);
  CHECK(std::abs(a.sink - b.sink) < tolerance);
  CHECK(std::abs(a.divergence - b.divergence) < tolerance);
}

}  // namespace

TEST_CASE("entropy and selected mass equal the values measured in training") {
  ReportBench bench;
  const auto rows = random_rows(3, 30);
  const Setting setting = settings_of(bench.model.source(), {.mode = "sparse"})[0];
  const AttentionReport report = bench.measure({.mode = "sparse"}, rows);
  CHECK(report.rows == 3);
  CHECK(report.tokens == 30);
  REQUIRE(report.heads.size() == 2);
  REQUIRE(report.heads[0].size() == 4);

  TestModel trained(setting.model, {.rows = 3, .tokens = 30, .path = AttentionPath::ssa, .backward = false});
  const auto parameters = published_parameters(setting.model);
  load_master_weights(trained.stream, trained.state, [&](std::size_t i, std::span<float> out, std::int64_t first) {
    bench.model.source().read(parameters[i], out, first);
  });
  HostBatch batch = random_batch(3, 30, 256, 5);
  for (std::size_t i = 0; i < batch.positions.size(); ++i) batch.positions[i] = static_cast<std::int32_t>(i % 30);
  trained.upload(batch);
  const AttentionSums sums = trained.state.sums.attention();
  forward(trained.stream, trained.state.model(), trained.state.batch, {}, trained.state.sums.losses(), sums);
  const auto mass = trained.read<double>(sums.selected_mass);
  const auto entropy = trained.read<double>(sums.entropy);
  for (std::size_t i = 0; i < mass.size(); ++i) {
    CHECK(std::abs(report.heads[i / 4][i % 4].selected_mass - mass[i] / 90) < 1e-6);
    CHECK(std::abs(report.heads[i / 4][i % 4].entropy - entropy[i] / 90) < 1e-6);
  }
}

TEST_CASE("every method and mode is measured, and the batch size does not matter") {
  const auto rows = random_rows(5, 33);
  for (const char* method : {"ssa", "full", "moba", "nsa"})
    for (const std::string mode : {"sparse", "full"}) {
      if (std::string(method) == "nsa" && mode == "full") continue;
      INFO(method << " " << mode);
      ReportBench bench(method);
      const Overrides some{.mode = mode}, all{.mode = mode, .block_size = 64};
      const AttentionReport report = bench.measure(some, rows), cut = bench.measure(some, rows, 2);
      check_close(report.mean(), cut.mean(), 1e-6);
      CHECK(report.mean().selected_mass < 1);
      CHECK(report.mean().divergence > 0.01);
      CHECK(report.mean().entropy > 0);
      // One block contains the whole sequence: sparse attention equals full attention.
      const AttentionReport whole = bench.measure(all, rows, 8, 33);
      for (const auto& layer : whole.heads)
        for (const AttentionMeasures& head : layer) {
          CHECK(std::abs(head.selected_mass - 1) < 1e-6);
          CHECK(std::abs(head.sink - 1) < 1e-6);
          CHECK(head.divergence < 1e-5);
        }
    }
}

TEST_CASE("the table has one line per layer, the JSON one entry per head") {
  AttentionReport report{.rows = 2, .tokens = 8, .sink_tokens = 4, .heads = {}};
  report.heads = {{{1, 0.5, 0.25, 0.125}, {2, 1, 0.75, 0.375}}, {{3, 0.25, 0, 0}, {3, 0.25, 0, 0}}};
  CHECK(report.table() ==
        "| layer | entropy | in selected blocks | first 4 tokens | sparse from full |\n"
        "|-------|---------|--------------------|----------------|------------------|\n"
        "|     0 |  1.5000 |             0.7500 |         0.5000 |           0.2500 |\n"
        "|     1 |  3.0000 |             0.2500 |         0.0000 |           0.0000 |\n"
        "|  mean |  2.2500 |             0.5000 |         0.2500 |           0.1250 |\n");
  const nlohmann::json json = report.json();
  CHECK(json["layers"][0]["heads"][1]["sink"] == 0.75);
  CHECK(json["layers"][1]["entropy"] == 3.0);
  CHECK(json["mean"]["divergence"] == 0.125);
  CHECK(json["sink_tokens"] == 4);
}

TEST_CASE("rows_of cuts texts into rows of equal length") {
  const std::vector<TokenIds> texts = {{1, 2, 3}, {4, 5, 6, 7}};
  CHECK(rows_of(texts, 3, 9) == std::vector<TokenIds>{{1, 2, 3}, {4, 5, 6}});
  CHECK(rows_of(texts, 3, 1) == std::vector<TokenIds>{{1, 2, 3}});
  CHECK(rows_of(texts, 10, 9) == std::vector<TokenIds>{{1, 2, 3, 4, 5, 6, 7}});
  CHECK(rows_of({}, 10, 9).empty());
}

TEST_CASE("attention report: outputs that are not finite have no distance") {
  ReportBench bench;
  const auto rows = random_rows(1, 16);
  const Setting setting = settings_of(bench.model.source(), {.mode = "sparse"})[0];
  const ModelParams weights = bind_params(bench.loaded.table(), setting.model, bench.loaded.weights());
  weights.layers[1].qkvg_proj.as<float>()[0] = std::nanf("");
  const AttentionReport report = bench.measure({.mode = "sparse"}, rows);
  CHECK(std::isfinite(report.heads[0][0].divergence));
  CHECK(std::isnan(report.heads[1][0].divergence));
  CHECK(report.json()["mean"]["divergence"].dump() == "null");
}
