#include "ssa/train/metrics_log.h"

#include <nlohmann/json.hpp>
#include <string_view>

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

/// `lines` is set to the lines that remain.
FileWriter open_after(const std::filesystem::path& path, std::int64_t step, std::int64_t& lines) {
  check_output_file(path);
  if (std::filesystem::exists(path)) {
    const std::string before = read_file(path);
    std::string after;
    for_each_line(before, [&](std::string_view line) {
      const ordered_json parsed = parse_line(line);
      if (parsed.is_null() || parsed["step"].get<std::int64_t>() > step) return;
      after.append(line).push_back('\n');
      ++lines;
    });
    if (after != before) replace_file(path, after);
  }
  return FileWriter(path, FileWriter::Mode::append);
}

}  // namespace

MetricsLog::MetricsLog(const std::filesystem::path& file, std::int64_t step) : file_(open_after(file, step, lines_)) {}

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
