#include "ssa/eval/attention_report.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "ssa/data/row_loader.h"

namespace ssa::eval {
namespace {

using Json = nlohmann::json;

AttentionMeasures mean_of(const std::vector<AttentionMeasures>& all) {
  AttentionMeasures sum;
  for (const AttentionMeasures& one : all) {
    sum.entropy += one.entropy;
    sum.selected_mass += one.selected_mass;
    sum.sink += one.sink;
    sum.divergence += one.divergence;
  }
  const auto count = static_cast<double>(all.size());
  return {.entropy = sum.entropy / count,
          .selected_mass = sum.selected_mass / count,
          .sink = sum.sink / count,
          .divergence = sum.divergence / count};
}

Json json_of(const AttentionMeasures& m) {
  return {{"entropy", m.entropy}, {"selected_mass", m.selected_mass}, {"sink", m.sink}, {"divergence", m.divergence}};
}

}  // namespace

AttentionMeasures AttentionReport::layer(std::size_t index) const { return mean_of(heads[index]); }

AttentionMeasures AttentionReport::mean() const {
  std::vector<AttentionMeasures> layers;
  for (std::size_t i = 0; i < heads.size(); ++i) layers.push_back(layer(i));
  return mean_of(layers);
}

std::string AttentionReport::table() const {
  const std::string sink = concat("first ", sink_tokens, " tokens");
  std::string text = fmt::format("| layer | entropy | in selected blocks | {} | sparse from full |\n", sink);
  text += "|-------|---------|--------------------|" + std::string(sink.size() + 2, '-') + "|------------------|\n";
  const auto add = [&](const std::string& name, const AttentionMeasures& m) {
    text += fmt::format("| {:>5} | {:7.4f} | {:18.4f} | {:{}.4f} | {:16.4f} |\n", name, m.entropy, m.selected_mass,
                        m.sink, sink.size(), m.divergence);
  };
  for (std::size_t i = 0; i < heads.size(); ++i) add(std::to_string(i), layer(i));
  add("mean", mean());
  return text;
}

Json AttentionReport::json() const {
  Json layers = Json::array();
  for (std::size_t i = 0; i < heads.size(); ++i) {
    Json one = json_of(layer(i));
    one["layer"] = i;
    one["heads"] = Json::array();
    for (const AttentionMeasures& head : heads[i]) one["heads"].push_back(json_of(head));
    layers.push_back(one);
  }
  return {
      {"rows", rows}, {"tokens", tokens}, {"sink_tokens", sink_tokens}, {"mean", json_of(mean())}, {"layers", layers}};
}

AttentionReport measure_attention(Stream& stream, Comm& comm, const LoadedModel& loaded, const Setting& setting,
                                  const std::vector<TokenIds>& rows, std::int64_t batch, std::int64_t sink_tokens) {
  SSA_CHECK(!rows.empty(), "no rows to measure attention on");
  ForwardPass pass(stream, loaded, setting, sink_tokens);
  const auto count = static_cast<std::int64_t>(rows.size());
  for (std::int64_t first = comm.rank() * batch; first < count; first += comm.size() * batch) {
    RowBatch some;
    for (std::int64_t i = first; i < std::min(count, first + batch); ++i) {
      some.ids.push_back(rows[static_cast<std::size_t>(i)]);
      some.targets.emplace_back(some.ids.back().size(), kIgnoredLabel);
    }
    pass.losses(some);
  }
  ForwardPass::Measured sums = pass.measured();
  for (std::vector<double>* sum : {&sums.selected_mass, &sums.entropy, &sums.distance, &sums.norm, &sums.sink})
    all_reduce(comm, *sum, ReduceOp::sum);

  AttentionReport report{
      .rows = count, .tokens = static_cast<std::int64_t>(rows.front().size()), .sink_tokens = sink_tokens, .heads = {}};
  const double positions = static_cast<double>(report.rows * report.tokens);
  const auto width = static_cast<std::size_t>(setting.model.num_attention_heads);
  for (std::size_t i = 0; i < sums.entropy.size(); ++i) {
    if (i % width == 0) report.heads.emplace_back();
    report.heads.back().push_back(
        {.entropy = sums.entropy[i] / positions,
         .selected_mass = sums.selected_mass[i] / positions,
         .sink = sums.sink[i] / positions,
         .divergence = sums.distance[i] == 0 ? 0.0 : std::sqrt(sums.distance[i] / sums.norm[i])});
  }
  return report;
}

std::vector<TokenIds> rows_of(const std::vector<TokenIds>& texts, std::int64_t max_length, std::int64_t limit) {
  TokenIds all;
  for (const TokenIds& text : texts) all.insert(all.end(), text.begin(), text.end());
  std::vector<TokenIds> rows;
  const auto length = static_cast<std::size_t>(max_length);
  for (std::size_t at = 0; at + length <= all.size() && static_cast<std::int64_t>(rows.size()) < limit; at += length)
    rows.emplace_back(all.begin() + static_cast<std::ptrdiff_t>(at),
                      all.begin() + static_cast<std::ptrdiff_t>(at + length));
  if (rows.empty() && !all.empty()) rows.push_back(all);
  return rows;
}

}  // namespace ssa::eval
