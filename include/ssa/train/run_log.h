// The output of a run: lines on the console and in train.log, and metrics.jsonl. Only rank 0 writes.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/matmul/choice.h"
#include "ssa/comm/comm.h"
#include "ssa/config/config.h"
#include "ssa/data/row_range.h"
#include "ssa/train/metrics_log.h"
#include "ssa/train/spike_detector.h"

namespace ssa {

/// The losses of data.eval_path, in nats per token and in bits per byte, and the scores of train.eval_tasks, by key in
/// metrics.jsonl.
using EvalLosses = std::map<std::string, double>;

/// What the run has read of a source of data.sources up to a step.
struct SourceReport {
  std::string name;
  std::int64_t rows = 0, tokens = 0;
  double epoch = 0;
};

/// The numbers of one step, under their keys in metrics.jsonl.
struct StepReport {
  std::int64_t step = 0;  ///< updates done, this one included
  double epoch = 0;
  std::int64_t step_tokens = 0;         ///< of this step, padding included
  std::int64_t tokens = 0;              ///< of the run, up to this step
  std::optional<double> loss, ce_loss;  ///< none if no token of the step has a target
  double alignment_loss = 0;
  double grad_norm = 0;  ///< before clipping
  double learning_rate = 0;
  std::string stream;                          ///< full, sparse, or mixed when drawn by row
  RowRange rows;                               ///< of the run, as data.skip_ranges counts them
  SpikeScores spike;                           ///< standard deviations above the steps before
  std::int64_t skipped_updates = 0;            ///< of the run, up to this step
  std::vector<double> selected_mass, entropy;  ///< by layer; empty where they were not measured
  std::vector<SourceReport> sources;           ///< none with data.path
  EvalLosses eval_losses;
};

/// Sends warnings to standard error, in a program whose results are its standard output.
void log_to_stderr();

/// Makes rank 0 log to the console and to train.log in `output_dir`, which exists.
void start_logging(const std::string& output_dir, Comm& comm);

/// The warning of a run on a GPU whose sequences are so short that its method, which has no full attention, is slower
/// than full attention (`sparse_crossover_tokens` of flops.h). Empty when there is nothing to warn about.
std::string short_rows_warning(const Config& config);

/// How the algorithms of the products were chosen; empty if none was.
std::string choices_line(const MatmulChoiceReport& report);

class RunLog {
 public:
  struct Start {
    std::int64_t step;    ///< where the run starts; later lines of metrics.jsonl are dropped
    std::int64_t tokens;  ///< of these steps
    std::int64_t total_steps;
    std::string resumed_from;      ///< path of the checkpoint; unless it is of this run, metrics.jsonl is renamed
    std::int64_t metrics_lines;    ///< lines of metrics.jsonl when it was saved
    std::int64_t attended_length;  ///< training_data.h
  };
  RunLog(const Config& config, Comm& comm, Stream& stream, const Start& start);

  /// `about_data`: lines for the log.
  void begin(std::int64_t parameters, const std::vector<std::string>& about_data);
  /// Logs a step. The speed it reports is the average since the step logged before.
  void step(const StepReport& report);
  /// Whether the last line of metrics.jsonl belongs to the step where the run starts, and has no key that begins with
  /// `prefix`.
  bool lacks_evaluation(std::string_view prefix) const;
  /// Adds the evaluation that the last line of metrics.jsonl lacks.
  void add_evaluation(const EvalLosses& losses);
  /// Time until `resume_clock` (evaluation, saving) does not count in the speed.
  void pause_clock();
  void resume_clock();
  void say(const std::string& line);
  /// choices_line(), and what was wrong with the file, if anything was.
  void say_choices(const MatmulChoiceReport& report);
  /// Writes metrics.jsonl to the disk and returns the number of its lines. Rank 0 only; 0 elsewhere.
  std::int64_t sync_metrics();

 private:
  using Clock = std::chrono::steady_clock;

  void show_evaluation(std::int64_t step, const EvalLosses& losses) const;

  const Config& config_;
  bool speaks_;
  std::int64_t total_steps_, first_step_, last_logged_, logged_tokens_;
  Clock::time_point begun_, running_since_;
  double running_seconds_ = 0;  ///< of the steps since the last one logged, up to running_since_
  DeviceKind kind_;
  std::string device_;
  int ranks_;
  /// Set on a GPU only: FLOPs per token (flops.h), and the peak FLOP/s of all ranks together.
  std::optional<double> model_flops_, executed_flops_, peak_flops_;
  std::unique_ptr<MetricsLog> metrics_;
};

}  // namespace ssa
