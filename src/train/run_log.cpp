#include "ssa/train/run_log.h"

#include <fmt/format.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>
#include <sstream>

#include "src/train/console.h"
#include "ssa/base/fault.h"
#include "ssa/base/progress.h"
#include "ssa/model/attention_path.h"
#include "ssa/train/flops.h"

namespace ssa {
namespace {

std::string count_text(double count) {
  for (const auto& [unit, name] : {std::pair{1e12, "T"}, {1e9, "B"}, {1e6, "M"}, {1e3, "k"}})
    if (count >= unit) return fmt::format("{:.3g}{}", count / unit, name);
  return fmt::format("{:.0f}", count);
}

nlohmann::ordered_json or_null(const std::optional<double>& value) {
  return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json();
}

double mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

/// Memory of this process, in GB of 1e9 bytes: on a GPU, that of the host.
double host_memory_gb() {
  std::istringstream pages(read_file("/proc/self/statm"));
  double virtual_pages = 0, resident_pages = 0;
  pages >> virtual_pages >> resident_pages;
  return resident_pages * static_cast<double>(::sysconf(_SC_PAGESIZE)) / 1e9;
}

/// Renames a file to old_metrics_name(), so that a new one can be written. A symbolic link remains: its content
/// is copied. A file without content is left.
void move_aside(const std::filesystem::path& file) {
  if (!std::filesystem::exists(file) || size_of_file(file) == 0) return;
  const std::filesystem::path aside = old_metrics_name(file);
  if (std::filesystem::is_symlink(file)) {
    replace_file(aside, read_file(file));
    replace_file(file, "");
  } else {
    rename_path(file, aside);
  }
  spdlog::info("the metrics of the previous run are now in {}", aside.string());
}

/// The lines of steps go to both: short to the console, complete to train.log.
std::shared_ptr<Console> console;
std::shared_ptr<spdlog::sinks::sink> log_file;

}  // namespace

void log_to_stderr() {
  spdlog::set_default_logger(
      std::make_shared<spdlog::logger>("", std::make_shared<spdlog::sinks::stderr_color_sink_mt>()));
}

void start_logging(const std::string& output_dir, Comm& comm) {
  if (comm.rank() != 0) return;
  console = std::make_shared<Console>(terminal_columns());
  const std::filesystem::path file = std::filesystem::path(output_dir) / "train.log";
  check_output_file(file);
  log_file = std::make_shared<spdlog::sinks::basic_file_sink_mt>(file.string());
  log_file->set_pattern("%Y-%m-%d %H:%M:%S %L %v");
  auto logger = std::make_shared<spdlog::logger>("", spdlog::sinks_init_list{console, log_file});
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(logger);
  for (const std::string& fault : armed_faults())
    spdlog::warn("SSA_FAULT is set, this run rehearses a failure: {}", fault);
}

std::string short_rows_warning(const Config& config) {
  const ModelConfig& m = config.model;
  const Method method = config.attention.method;
  const auto crossover = sparse_crossover_tokens(m, method);
  if (!crossover || config.train.max_length >= *crossover) return {};
  const std::string window =
      branches_of(training_path(method), m).window ? fmt::format(" and model.window_size {}", m.window_size) : "";
  return fmt::format(
      "train.max_length {} is short for attention.method {}: it trains slower than full attention in rows of less than "
      "about {} tokens, with {} selected keys (model.block_size {} x model.block_counts {}){}; a rule measured on one "
      "H200",
      config.train.max_length, name_of(method), *crossover, m.block_size * m.block_counts, m.block_size, m.block_counts,
      window);
}

std::string choices_line(const MatmulChoiceReport& report) {
  if (report.measured + report.from_file == 0) return {};
  const std::string timed = fmt::format("{} timed; {:.1f} s", report.measured, report.seconds);
  if (report.file.empty()) return fmt::format("matrix products: {}, not kept (no cache directory)", timed);
  return fmt::format("matrix products: {} algorithms from {}, {}", report.from_file, report.file, timed);
}

RunLog::RunLog(const Config& config, Comm& comm, Stream& stream, const Start& start)
    : config_(config),
      speaks_(comm.rank() == 0),
      total_steps_(start.total_steps),
      first_step_(start.step),
      last_logged_(start.step),
      logged_tokens_(start.tokens),
      begun_(Clock::now()),
      running_since_(begun_),
      kind_(stream.kind()),
      device_(stream.device_name()),
      ranks_(comm.size()) {
  if (!speaks_) return;
  if (kind_ == DeviceKind::cuda) {
    const std::int64_t tokens = start.attended_length;
    model_flops_ = model_flops_per_token(config.model, tokens);
    executed_flops_ =
        executed_flops_per_token(config.model, tokens, config.attention.method, config.train.gradient_checkpointing);
    if (const auto peak = peak_bf16_flops(device_)) peak_flops_ = *peak * ranks_;
  }
  const std::filesystem::path directory(config.output_dir);
  const std::filesystem::path file = directory / "metrics.jsonl";
  // Another run's checkpoint does not describe this file.
  std::filesystem::path checkpoint(start.resumed_from);
  if (!checkpoint.has_filename()) checkpoint = checkpoint.parent_path();  // the name of a directory may end in a slash
  std::error_code elsewhere;
  const bool same_run =
      std::filesystem::equivalent(checkpoint, directory / "checkpoints" / checkpoint.filename(), elsewhere);
  check_output_file(file);
  if (!same_run) move_aside(file);
  metrics_ = std::make_unique<MetricsLog>(file, start.step);
  if (!metrics_->foreign_lines().empty())
    spdlog::warn(metrics_->foreign_lines());
  else if (same_run && start.metrics_lines > 0 && metrics_->lines() != start.metrics_lines)
    spdlog::warn("{}: {} lines up to step {}, expected {}: lines were lost or added outside of the run", file.string(),
                 metrics_->lines(), start.step, start.metrics_lines);
  replace_file(directory / "config.json", config_json(config));
}

void RunLog::begin(std::int64_t parameters, const std::vector<std::string>& about_data) {
  if (!speaks_) return;
  for (const std::string& line : config_lines(config_)) spdlog::debug(line);
  spdlog::info("{}: {} parameters, {} on {} rank{} ({})", config_.output_dir,
               count_text(static_cast<double>(parameters)), name_of(config_.attention.method), ranks_,
               ranks_ == 1 ? "" : "s", device_);
  for (const std::string& line : about_data) spdlog::info("data: {}", line);
  spdlog::info("steps {} to {}", first_step_ + 1, total_steps_);
  if (kind_ != DeviceKind::cuda) return;
  if (const std::string warning = short_rows_warning(config_); !warning.empty()) spdlog::warn(warning);
}

void RunLog::pause_clock() { running_seconds_ += std::chrono::duration<double>(Clock::now() - running_since_).count(); }

void RunLog::resume_clock() { running_since_ = Clock::now(); }

void RunLog::step(const StepReport& r) {
  if (!speaks_) return;
  pause_clock();
  resume_clock();
  const auto steps = static_cast<double>(r.step - last_logged_);
  const double seconds = running_seconds_ / steps;
  const double tokens_per_second = static_cast<double>(r.tokens - logged_tokens_) / running_seconds_;
  running_seconds_ = 0;
  last_logged_ = r.step;
  logged_tokens_ = r.tokens;

  nlohmann::ordered_json line = {{"step", r.step},
                                 {"epoch", r.epoch},
                                 {"tokens", r.tokens},
                                 {"step_tokens", r.step_tokens},
                                 {"loss", or_null(r.loss)},
                                 {"ce_loss", or_null(r.ce_loss)},
                                 {"alignment_loss", r.alignment_loss},
                                 {"grad_norm", r.grad_norm},
                                 {"learning_rate", r.learning_rate},
                                 {"stream", r.stream},
                                 {"tokens_per_second", tokens_per_second},
                                 {"step_ms", seconds * 1e3},
                                 {"host_memory_gb", host_memory_gb()}};
  std::optional<double> utilization;
  if (peak_flops_)
    line["model_flops_utilization"] = utilization.emplace(*model_flops_ * tokens_per_second / *peak_flops_);
  if (executed_flops_) line["executed_tflops"] = *executed_flops_ * tokens_per_second / ranks_ / 1e12;
  for (const auto& [name, layers] : {std::pair("selected_mass", &r.selected_mass), {"entropy", &r.entropy}}) {
    if (layers->empty()) continue;
    line[name] = mean(*layers);
    line[concat(name, "_by_layer")] = *layers;
  }
  line["rows"] = {r.rows.first, r.rows.last};
  for (const SourceReport& source : r.sources)
    line["sources"][source.name] = {{"rows", source.rows}, {"tokens", source.tokens}, {"epoch", source.epoch}};
  if (r.spike.loss) line["loss_z_score"] = *r.spike.loss;
  if (r.spike.grad_norm) line["grad_norm_z_score"] = *r.spike.grad_norm;
  if (r.skipped_updates > 0) line["skipped_updates"] = r.skipped_updates;
  for (const auto& [name, loss] : r.eval_losses) line[name] = loss;
  metrics_->append(line);

  const double elapsed = std::chrono::duration<double>(Clock::now() - begun_).count();
  const double left = elapsed / static_cast<double>(r.step - first_step_) * static_cast<double>(total_steps_ - r.step);
  const bool ssa = branches_of(training_path(config_.attention.method), config_.model).aligned;
  const auto loss_text = [](const std::optional<double>& loss) { return loss ? fmt::format("{:.4f}", *loss) : "none"; };
  const std::string progress = fmt::format("step {}/{}  loss {}", r.step, total_steps_, loss_text(r.loss));
  std::string speed = count_text(tokens_per_second) + " tok/s";
  if (utilization) speed += fmt::format("  mfu {:.1f}%", *utilization * 100);
  speed += "  left " + clock_text(left);

  std::string text = progress;
  if (ssa) text += fmt::format("  ce {}  align {:.2e}  stream {}", loss_text(r.ce_loss), r.alignment_loss, r.stream);
  text += fmt::format("  norm {:.3f}  lr {:.2e}  {}", r.grad_norm, r.learning_rate, speed);
  if (!r.entropy.empty()) text += fmt::format("  mass {:.3f}  entropy {:.2f}", mean(r.selected_mass), mean(r.entropy));
  for (const auto& [name, loss] : r.eval_losses) text += fmt::format("  {} {:.4f}", name, loss);
  log_file->log({"", spdlog::level::info, text});
  log_file->flush();

  // The console's line fits 80 columns.
  const std::string alignment = ssa ? fmt::format("  align {:.1e}", r.alignment_loss) : "";
  const bool fits = progress.size() + alignment.size() + 2 + speed.size() < 80;
  console->show_step(progress + (fits ? alignment : "") + "  " + speed);
  show_evaluation(r.step, r.eval_losses);
}

void RunLog::show_evaluation(std::int64_t step, const EvalLosses& losses) const {
  if (losses.empty()) return;
  std::string text = fmt::format("step {}", step);
  for (const auto& [name, loss] : losses) text += fmt::format("  {} {:.4f}", name, loss);
  console->log({"", spdlog::level::info, text});
  console->flush();
}

std::int64_t RunLog::sync_metrics() {
  if (!speaks_) return 0;
  metrics_->sync();
  return metrics_->lines();
}

bool RunLog::lacks_evaluation(std::string_view prefix) const {
  if (!speaks_ || first_step_ == 0) return false;
  const nlohmann::ordered_json last = metrics_->last();
  if (last.is_null() || last["step"] != first_step_) return false;
  return std::none_of(last.items().begin(), last.items().end(),
                      [&](const auto& item) { return item.key().starts_with(prefix); });
}

void RunLog::add_evaluation(const EvalLosses& losses) {
  if (!speaks_) return;
  nlohmann::ordered_json more;
  for (const auto& [name, loss] : losses) more[name] = loss;
  metrics_->extend_last(more);
  log_file->log({"", spdlog::level::info,
                 fmt::format("step {}: the evaluation that a signal ended: {}", first_step_, more.dump())});
  show_evaluation(first_step_, losses);
}

void RunLog::say(const std::string& line) {
  if (speaks_) spdlog::info(line);
}

void RunLog::say_choices(const MatmulChoiceReport& report) {
  if (const std::string line = choices_line(report); !line.empty()) say(line);
  if (speaks_ && !report.problem.empty()) spdlog::warn(report.problem);
}

}  // namespace ssa
