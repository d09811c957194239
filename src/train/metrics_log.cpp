#include "ssa/train/metrics_log.h"

#include <fmt/chrono.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <vector>

#include "ssa/base/error.h"

namespace ssa {
namespace {

using nlohmann::ordered_json;

/// The line as an object with an integer step; null for anything else.
ordered_json parse_line(std::string_view line) {
  ordered_json parsed = ordered_json::parse(line, nullptr, /*allow_exceptions=*/false);
  const bool good = parsed.is_object() && parsed.contains("step") && parsed["step"].is_number_integer();
  return good ? parsed : ordered_json();
}

template <class F>
void for_each_line(std::string_view text, F&& f) {
  while (!text.empty()) {
    const auto end = std::min(text.find('\n'), text.size());
    f(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

struct Line {
  std::string_view text;
  std::optional<std::int64_t> step;  ///< none: not a line of a run
};

/// Without a last line that was cut short.
std::vector<Line> lines_of(std::string_view text) {
  std::vector<Line> lines;
  for_each_line(text, [&](std::string_view line) {
    const ordered_json parsed = parse_line(line);
    lines.push_back({line, parsed.is_null() ? std::nullopt : std::optional(parsed["step"].get<std::int64_t>())});
  });
  if (!text.ends_with('\n') && !lines.empty() && !lines.back().step) lines.pop_back();
  return lines;
}

/// "line 3: found ..., expected ...", and how many such lines there are; empty if there are none.
std::string describe_foreign(const std::vector<Line>& lines) {
  std::string first;
  std::int64_t previous = 0, count = 0;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const std::optional<std::int64_t> step = lines[i].step;
    if (!step || *step <= previous) {
      const std::string found = step ? concat("step ", *step) : concat('"', shown(lines[i].text, 60), '"');
      if (++count == 1)
        first = concat("line ", i + 1, ": found ", found, ", expected a JSON object with a step above ", previous);
    }
    if (step) previous = *step;
  }
  return count > 1 ? concat(first, " (the first of ", count, " such lines)") : first;
}

}  // namespace

MetricsLog::MetricsLog(const std::filesystem::path& file, std::int64_t step) {
  check_output_file(file);
  if (std::filesystem::exists(file)) {
    const std::string before = read_file(file);
    const std::vector<Line> lines = lines_of(before);
    const auto kept = [&](const Line& line) { return line.step && *line.step <= step; };
    const auto end = std::find_if(lines.rbegin(), lines.rend(), kept).base();
    std::string after;
    for (auto line = lines.begin(); line != end; ++line) {
      if (!line->step) continue;
      after.append(line->text).push_back('\n');
      ++lines_;
    }
    if (const std::string foreign = describe_foreign(lines); !foreign.empty()) {
      std::string kept_as = "all are kept";
      if (std::ranges::any_of(lines, [](const Line& line) { return !line.step; })) {
        const std::filesystem::path aside = old_metrics_name(file);
        replace_file(aside, before);
        kept_as = concat("the file as it was is now ", aside.string());
      }
      foreign_lines_ = concat(file.string(), ": ", foreign, "; it was changed outside of the run, ", kept_as);
    }
    if (after != before) replace_file(file, after);
  }
  file_.emplace(file, FileWriter::Mode::append);
}

std::filesystem::path old_metrics_name(const std::filesystem::path& file) {
  const auto now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  const std::string name = fmt::format("{}-until-{:%Y%m%d-%H%M%S}", file.stem().string(), fmt::gmtime(now));
  const auto path = [&](const std::string& end) {
    return file.parent_path() / (name + end + file.extension().string());
  };
  std::filesystem::path free = path("");
  for (int i = 2; std::filesystem::exists(free); ++i) free = path(fmt::format("-{}", i));
  return free;
}

void MetricsLog::sync() {
  file_->sync();
  sync_directory(file_->path().parent_path());
}

void MetricsLog::append(const nlohmann::json& line) { append_text(line.dump()); }
void MetricsLog::append(const ordered_json& line) { append_text(line.dump()); }

void MetricsLog::append_text(std::string text) {
  text += '\n';
  file_->write(text);
  file_->flush();
  ++lines_;
}

ordered_json MetricsLog::last() const { return last_metrics(file_->path()); }

void MetricsLog::extend_last(const ordered_json& more) {
  const std::filesystem::path path = file_->path();
  std::string text = read_file(path);
  ordered_json line = last_metrics(path);
  line.update(more);
  text.erase(text.find_last_of('\n', text.size() - 2) + 1);  // npos + 1 is 0: the only line
  file_.reset();
  replace_file(path, text + line.dump() + "\n");
  file_.emplace(path, FileWriter::Mode::append);
}

ordered_json last_metrics(const std::filesystem::path& file) {
  ordered_json last;
  for_each_line(read_file(file), [&](std::string_view line) {
    if (ordered_json parsed = parse_line(line); !parsed.is_null()) last = std::move(parsed);
  });
  return last;
}

ordered_json last_evaluation(const std::filesystem::path& file) {
  ordered_json last;
  for_each_line(read_file(file), [&](std::string_view line) {
    const ordered_json parsed = parse_line(line);
    if (parsed.is_null()) return;
    ordered_json found = {{"step", parsed["step"]}};
    for (const auto& [key, value] : parsed.items())
      if (key.starts_with("eval_") || key.starts_with("task_")) found[key] = value;
    if (found.size() > 1) last = std::move(found);
  });
  return last;
}

}  // namespace ssa
