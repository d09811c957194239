#include "ssa/train/run_report.h"

#include <fmt/chrono.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <utility>
#include <vector>

#include "src/train/report/run_report_page.h"
#include "ssa/base/error.h"
#include "ssa/base/file.h"
#include "ssa/data/unigram.h"
#include "ssa/io/checkpoint.h"

namespace ssa {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::size_t kMostPoints = 4000;  // of a curve: more than a screen has columns
constexpr std::size_t kMostCells = 400;    // of a heat map, per layer
constexpr std::size_t kLogLines = 300;
constexpr std::string_view kPlaceholder = "/*RUN*/";

/// Six digits: more are not visible, and make the page larger.
Json short_number(double value) {
  return std::isfinite(value) ? Json(std::stod(fmt::format("{:.6g}", value))) : Json(nullptr);
}

using Point = std::pair<std::int64_t, double>;

/// The values by step of every key, and of every layer.
struct Series {
  Json keys = Json::object();  ///< the keys in the order of their first occurrence; values unused
  std::map<std::string, std::vector<Point>> curves;
  std::map<std::string, std::vector<std::pair<std::int64_t, std::vector<double>>>> layers;
  std::int64_t first_step = 0, last_step = 0, tokens = 0, lines = 0;

  /// Nested objects have keys such as sources/web/rows. Errors do not name the file.
  void add(std::int64_t step, const std::string& prefix, const Json& object) {
    for (const auto& [name, value] : object.items()) {
      const std::string key = prefix + name;
      if (value.is_object()) {
        add(step, key + "/", value);
      } else if (value.is_number() && key != "step") {
        keys[key] = nullptr;
        curves[key].emplace_back(step, value.get<double>());
      } else if (value.is_array() && key.ends_with("_by_layer")) {
        std::vector<double> values;
        for (const Json& layer : value) values.push_back(number_or_nan(key, layer));
        layers[key.substr(0, key.size() - std::string_view("_by_layer").size())].emplace_back(step, values);
      }
    }
  }

 private:
  /// JSON has no NaN: metrics.jsonl has null for it.
  static double number_or_nan(const std::string& key, const Json& value) {
    if (value.is_null()) return std::numeric_limits<double>::quiet_NaN();
    SSA_CHECK(value.is_number(), key, ": found ", value.dump(), ", expected a number or null");
    return value.get<double>();
  }
};

Series read_series(const fs::path& file) {
  Series series;
  SSA_CHECK(is_present(file), file.string(), ": no such file, expected the metrics of a run");
  std::istringstream stream(read_file(file));
  std::string text;
  while (std::getline(stream, text)) {
    if (stream.eof()) break;  // a line that is being written
    ++series.lines;
    const Json line = Json::parse(text, nullptr, false);
    try {
      SSA_CHECK(line.is_object() && line.contains("step") && line["step"].is_number_integer(),
                "expected an object with a step");
      const auto step = line["step"].get<std::int64_t>();
      if (series.lines == 1) series.first_step = step;
      series.last_step = step;
      if (line.contains("tokens")) {
        const Json& tokens = line["tokens"];
        SSA_CHECK(tokens.is_number_integer(), "tokens: found ", tokens.dump(), ", expected an integer");
        series.tokens = tokens.get<std::int64_t>();
      }
      series.add(step, "", line);
    } catch (const Error& error) {
      fail(file, ":", series.lines, ": ", error.what());
    }
  }
  return series;
}

/// Points of the page: the least and the greatest of every `group` adjacent ones, in their order.
Json curve_json(const std::vector<Point>& points) {
  const std::size_t group = points.size() <= kMostPoints ? 1 : (2 * points.size() + kMostPoints - 1) / kMostPoints;
  Json list = Json::array();
  const auto by_value = [](const Point& a, const Point& b) { return a.second < b.second; };
  for (std::size_t begin = 0; begin < points.size(); begin += group) {
    const auto first = points.begin() + static_cast<std::ptrdiff_t>(begin);
    const auto last = first + static_cast<std::ptrdiff_t>(std::min(group, points.size() - begin));
    auto [least, greatest] = std::minmax_element(first, last, by_value);
    if (greatest < least) std::swap(least, greatest);
    for (const auto at : std::set{least, greatest}) list.push_back({at->first, short_number(at->second)});
  }
  return list;
}

Json layers_json(const Series& series, const std::string& key) {
  Json list = Json::array();
  const auto found = series.layers.find(key);
  if (found == series.layers.end()) return list;
  const std::size_t every = (found->second.size() + kMostCells - 1) / kMostCells;
  for (std::size_t i = 0; i < found->second.size(); i += every) {
    const auto& [step, layers] = found->second[i];
    Json values = Json::array();
    for (const double value : layers) values.push_back(short_number(value));
    list.push_back({step, values});
  }
  return list;
}

/// The last lines of train.log; without the lines of single steps, which the curves show.
struct LogLines {
  std::deque<std::string> all, warnings;
};

LogLines read_log(const fs::path& file) {
  LogLines lines;
  if (!is_present(file)) return lines;
  std::istringstream stream(read_file(file));
  constexpr std::size_t kLevelAt = std::string_view("2026-01-01 00:00:00 ").size();
  const auto keep = [](std::deque<std::string>& list, const std::string& line) {
    list.push_back(line);
    if (list.size() > kLogLines) list.pop_front();
  };
  for (std::string line; std::getline(stream, line);) {
    const std::string_view message = line.size() > kLevelAt ? std::string_view(line).substr(kLevelAt) : "";
    if (message.starts_with("D ") || message.starts_with("I step ")) continue;
    keep(lines.all, line);
    if (message.starts_with("W ") || message.starts_with("E ") || message.starts_with("C ")) keep(lines.warnings, line);
  }
  return lines;
}

/// The unigram entropy of the run's evaluation dataset, if the config names one that is here and not large.
Json baseline_json(const fs::path& config_file) {
  constexpr std::int64_t kMostTokens = 20'000'000;
  const Json config = Json::parse(fs::exists(config_file) ? read_file(config_file) : "", nullptr, false);
  const auto path = Json::json_pointer("/data/eval_path");
  if (config.is_discarded() || !config.contains(path) || !config[path].is_string()) return nullptr;
  const fs::path directory = config[path].get<std::string>();
  if (!fs::exists(directory / "dataset.json")) return nullptr;
  const Dataset dataset(directory);
  return dataset.tokens() <= kMostTokens ? short_number(unigram_entropy(dataset)) : Json(nullptr);
}

Json checkpoints_json(const fs::path& directory) {
  Json list = Json::array();
  for (const CheckpointInfo& info : find_checkpoints(directory, Verify::sizes))
    list.push_back({{"name", info.path.filename().string()}, {"state", info.complete() ? "complete" : info.problem}});
  return list;
}

}  // namespace

std::string run_report(const fs::path& directory, int reload_seconds) {
  const Series series = read_series(directory / "metrics.jsonl");
  const LogLines log = read_log(directory / "train.log");
  const fs::path config = directory / "config.json";
  const auto now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  Json run = {{"name", fs::absolute(directory).lexically_normal().filename().string()},
              {"about", fmt::format("{}: steps {} to {}, {} tokens. This page is of {:%Y-%m-%d %H:%M:%S} UTC.",
                                    fs::absolute(directory).lexically_normal().string(), series.first_step,
                                    series.last_step, series.tokens, fmt::gmtime(now))},
              {"first_step", series.first_step},
              {"last_step", series.last_step},
              {"reload_seconds", reload_seconds},
              {"curves", Json::object()},
              {"layers", Json::object()},
              {"unigram_entropy", baseline_json(config)},
              {"log", log.all},
              {"warnings", log.warnings},
              {"config", fs::exists(config) ? read_file(config) : ""},
              {"checkpoints", checkpoints_json(directory)}};
  for (const auto& [key, unused] : series.keys.items()) run["curves"][key] = curve_json(series.curves.at(key));
  for (const char* key : {"selected_mass", "entropy"}) run["layers"][key] = layers_json(series, key);

  std::string json = run.dump(-1, ' ', false, Json::error_handler_t::replace);
  // No text of the run may end the page's script element.
  for (std::size_t at = 0; (at = json.find('<', at)) != std::string::npos;) json.replace(at, 1, "\\u003c");
  std::string page(run_report_page());
  return page.replace(page.find(kPlaceholder), kPlaceholder.size(), json);
}

}  // namespace ssa
