#include "ssa/eval/report.h"

#include <fmt/core.h>

#include <algorithm>
#include <ctime>

#include "ssa/base/file.h"

namespace ssa::eval {
namespace {

using Json = nlohmann::json;

std::string number(double value) { return fmt::format("{:.4f}", value); }

Json model_args(const ReportHead& head, const Setting& setting) {
  const ModelConfig& model = setting.model;
  Json args = {{"pretrained", head.model}, {"method", head.method}, {"mode", setting.mode()}};
  if (setting.sparse()) {
    args["block_size"] = model.block_size;
    args["block_counts"] = model.block_counts;
  }
  if (model.rope_scaling)
    args["rope_scaling"] = {{"rope_type", "llama3"},
                            {"factor", model.rope_scaling->factor},
                            {"low_freq_factor", model.rope_scaling->low_freq_factor},
                            {"high_freq_factor", model.rope_scaling->high_freq_factor},
                            {"original_max_position_embeddings", model.rope_scaling->original_max_position_embeddings}};
  return args;
}

}  // namespace

void Report::begin(const Setting& setting) { sections_.push_back({.setting = setting, .results = {}, .more = {}}); }

void Report::add(TaskResult result) { sections_.back().results.push_back(std::move(result)); }

void Report::attach(const std::string& key, Json value) { sections_.back().more[key] = std::move(value); }

std::string Report::table() const {
  std::vector<std::vector<std::string>> lines = {{"task", "shots", "attention", "metric", "value", "stderr"}};
  const bool seeds = head_.seeds.size() > 1;
  if (seeds) lines[0].push_back("deviation");
  for (const Section& section : sections_)
    for (const TaskResult& result : section.results)
      for (const Metric& metric : result.metrics) {
        const bool first = &metric == &result.metrics.front();
        lines.push_back({first ? result.task : "", first ? std::to_string(result.num_fewshot) : "",
                         first ? section.setting.name() : "", metric.name, number(metric.value),
                         metric.standard_error ? number(*metric.standard_error) : ""});
        if (seeds) lines.back().push_back(metric.deviation ? number(*metric.deviation) : "");
      }
  if (lines.size() == 1) return "";
  std::vector<std::size_t> widths(lines[0].size(), 0);
  for (const auto& line : lines)
    for (std::size_t column = 0; column < line.size(); ++column)
      widths[column] = std::max(widths[column], line[column].size());
  std::string text;
  for (const auto& line : lines) {
    for (std::size_t column = 0; column < line.size(); ++column) {
      const bool right = column >= 4 || column == 1;
      text += column ? " | " : "| ";
      text += right ? fmt::format("{:>{}}", line[column], widths[column])
                    : fmt::format("{:<{}}", line[column], widths[column]);
    }
    text += " |\n";
    if (&line != &lines.front()) continue;
    for (std::size_t column = 0; column < line.size(); ++column)
      text += (column ? "-|-" : "|-") + std::string(widths[column], '-');
    text += "-|\n";
  }
  return text;
}

Json Report::document(const Section& section) const {
  Json results = Json::object(), configs = Json::object(), versions = Json::object(), shots = Json::object(),
       directions = Json::object(), counts = Json::object(), samples = Json::object(), subtasks = Json::object();
  for (const TaskResult& result : section.results) {
    Json values = {{"name", result.task}, {"alias", result.task}, {"sample_len", result.evaluated}};
    Json metric_list = Json::array(), higher = Json::object();
    for (const Metric& metric : result.metrics) {
      values[metric.name + ",none"] = metric.value;
      values[metric.name + "_stderr,none"] = metric.standard_error ? Json(*metric.standard_error) : Json("N/A");
      if (metric.deviation) values[metric.name + "_std,none"] = *metric.deviation;
      metric_list.push_back({{"metric", metric.name}, {"higher_is_better", metric.higher_is_better}});
      higher[metric.name] = metric.higher_is_better;
    }
    results[result.task] = values;
    configs[result.task] = {{"task", result.task},
                            {"dataset_path", result.dataset},
                            {"output_type", result.output_type},
                            {"num_fewshot", result.num_fewshot},
                            {"metric_list", metric_list},
                            {"metadata", {{"version", 1.0}}}};
    if (result.document_mask) configs[result.task]["metadata"]["document_mask"] = true;
    versions[result.task] = 1.0;
    shots[result.task] = result.num_fewshot;
    directions[result.task] = higher;
    counts[result.task] = {{"original", result.documents}, {"effective", result.evaluated}};
    subtasks[result.task] = Json::array();
    if (!result.samples.is_null()) samples[result.task] = result.samples;
  }
  Json document = {{"results", results},
                   {"group_subtasks", subtasks},
                   {"configs", configs},
                   {"versions", versions},
                   {"n-shot", shots},
                   {"higher_is_better", directions},
                   {"n-samples", counts},
                   {"config",
                    {{"model", "ssa"},
                     {"model_args", model_args(head_, section.setting)},
                     {"batch_size", head_.rows},
                     {"device", head_.device},
                     {"limit", head_.limit ? Json(*head_.limit) : Json()},
                     {"bootstrap_iters", 100000},
                     {"fewshot_seed", head_.seeds.size() == 1 ? Json(head_.seeds[0]) : Json(head_.seeds)}}},
                   {"date", static_cast<double>(std::time(nullptr))},
                   {"model_name", head_.model},
                   {"max_length", head_.max_length}};
  if (!samples.empty()) document["samples"] = samples;
  for (const auto& [key, value] : section.more.items()) document[key] = value;
  return document;
}

Json Report::json() const {
  if (sections_.size() == 1) return document(sections_[0]);
  Json all = Json::array();
  for (const Section& section : sections_) all.push_back(document(section));
  return all;
}

void Report::write(const std::filesystem::path& file) const {
  if (file.has_parent_path()) make_directories(file.parent_path());
  replace_file(file, json().dump(1, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace ssa::eval
