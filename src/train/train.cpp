// The training loop. Read `train` and `train_step` from top to bottom: this is the order of events of a run.
#include "ssa/train/train.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>

#include "ssa/base/fault.h"
#include "ssa/base/random.h"
#include "ssa/base/signals.h"
#include "ssa/data/batch_plan.h"
#include "ssa/data/row_loader.h"
#include "ssa/runtime/profiler_range.h"
#include "ssa/train/batch_staging.h"
#include "ssa/train/evaluate.h"
#include "ssa/train/model_state.h"
#include "ssa/train/optimizer_step.h"
#include "ssa/train/rank_check.h"
#include "ssa/train/run_log.h"
#include "ssa/train/run_plan.h"
#include "ssa/train/run_store.h"
#include "ssa/train/schedule.h"

namespace ssa {
namespace {

/// Everything of a run, built in this order.
struct Run {
  Run(const Config& config_in, const TrainOptions& options, Comm& comm_in)
      : config(config_in),
        comm(comm_in),
        stream(options.device, comm_in.local_rank()),
        dataset(open_dataset(config.data.path, config)),
        loader(dataset, row_options(config)),
        plan(plan_batches(config, loader.rows(), comm.size())),
        total_steps(ssa::total_steps(config.train, plan.batches_per_epoch())),
        save_interval(ssa::save_interval(config.checkpoint, total_steps)),
        table(config.model, comm.size()),
        state(stream, state_shape(config, options.device, comm.size()), table, comm.rank()),
        staging(stream, state.shape().pass.rows, state.shape().pass.tokens),
        store(config, comm) {
    if (!config.data.eval_path) return;
    eval_dataset.emplace(open_dataset(*config.data.eval_path, config));
    RowOptions rows = row_options(config);
    rows.shuffle = false;
    rows.skip_train_samples = rows.max_train_samples = 0;
    eval_loader.emplace(*eval_dataset, rows);
  }

  const Config& config;
  Comm& comm;
  Stream stream;
  Dataset dataset;
  RowLoader loader;
  BatchPlan plan;
  std::int64_t total_steps, save_interval;
  ParamTable table;
  ModelState state;
  BatchStaging staging;
  RunStore store;
  std::optional<Dataset> eval_dataset;
  std::optional<RowLoader> eval_loader;
  std::int64_t step = 0;  ///< completed updates; with the seed, the only trainer state besides weights and moments

  Branches branches() const { return branches_of(state.shape().pass.path, config.model); }
};

/// Whether a signal reached any rank.
bool stop_wanted(Comm& comm) { return all_reduce(comm, stop_signal() != 0 ? 1.0 : 0.0, ReduceOp::max) > 0; }

/// Whether sequence `row` of this step passes on the output of full attention.
bool draw_full_stream(const Run& run, std::int64_t row) {
  const AttentionConfig& a = run.config.attention;
  const auto seed = static_cast<std::uint64_t>(run.config.train.seed);
  const bool by_row = a.stream_granularity == StreamGranularity::row;
  const auto step = static_cast<std::uint64_t>(run.step), index = static_cast<std::uint64_t>(by_row ? row : 0);
  return random_uniform(seed, RandomPurpose::stream, step, index) < a.full_stream_probability;
}

/// Puts micro-batch `micro` of this rank on the device.
void load_micro_batch(Run& run, std::int64_t micro) {
  const ProfilerRange range("load micro-batch");
  const std::int64_t epoch = run.plan.epoch(run.step);
  const std::int64_t first = run.plan.first_row(run.step, micro, run.comm.rank());
  const std::int64_t batch_begin = run.plan.first_row(run.step);
  for (std::int64_t i = 0; i < run.state.shape().pass.rows; ++i)
    run.staging.fill(i, run.loader, epoch, first + i, draw_full_stream(run, first + i - batch_begin));
  run.staging.upload(run.state.batch);
}

/// Labels in the global batch. Every rank counts all of them, without reading tokens.
std::int64_t count_labels(const Run& run) {
  std::int64_t labels = 0;
  for (std::int64_t i = 0; i < run.plan.global_rows(); ++i)
    labels += run.loader.label_count(run.plan.epoch(run.step), run.plan.first_row(run.step) + i);
  return labels;
}

/// Scales that make losses and gradients independent of how the global batch is split into micro-batches.
PassScales pass_scales(const Run& run, std::int64_t labels) {
  const ModelConfig& m = run.config.model;
  const double elements = static_cast<double>(run.plan.global_rows() * run.config.train.max_length * m.q_width());
  const double alignment = 1.0 / (elements * static_cast<double>(m.num_hidden_layers));
  return {.alignment = alignment,
          .ce_gradient = labels > 0 ? static_cast<float>(1.0 / static_cast<double>(labels)) : 0.0f,
          .alignment_gradient = static_cast<float>(run.config.attention.alignment_weight * alignment)};
}

/// Stops before the update when a loss or gradient is not finite, naming the first rank and tensor at fault.
void check_finite(Run& run, const StepSums::Values& local) {
  const bool finite = std::isfinite(local.ce) && std::isfinite(local.alignment) && std::isfinite(local.squared_norm);
  const double none = run.comm.size();
  const double culprit = all_reduce(run.comm, finite ? none : run.comm.rank(), ReduceOp::min);
  if (culprit == none) return;
  std::string what;
  if (run.comm.rank() == static_cast<int>(culprit)) {
    const std::string tensor = first_nonfinite_gradient(run.stream, run.state);
    what = concat("ce_loss sum ", local.ce, ", alignment_loss ", local.alignment,
                  ", first tensor with a bad gradient: ", tensor.empty() ? "none" : tensor);
  }
  what = broadcast(run.comm, what, static_cast<int>(culprit));
  fail("step ", run.step + 1, ": loss or gradient is not finite on rank ", static_cast<int>(culprit), " (", what,
       "); the weights were not updated, the last checkpoint is ", run.store.last_checkpoint());
}

/// One optimizer step; nullopt when a signal arrived, in which case no state has changed.
std::optional<StepReport> train_step(Run& run) {
  const ProfilerRange range("step");
  enter_fault_place(FaultPlace::step, run.step + 1);
  const TrainConfig& train = run.config.train;
  const ModelState& state = run.state;
  const std::int64_t labels = count_labels(run);
  const PassScales scales = pass_scales(run, labels);
  const bool measure =
      run.branches().aligned && train.attention_stats_steps > 0 && (run.step + 1) % train.attention_stats_steps == 0;
  const AttentionSums attention = measure ? state.sums.attention() : AttentionSums{};

  state.sums.clear(run.stream);
  for (std::int64_t micro = 0; micro < run.plan.micro_batches(); ++micro) {
    load_micro_batch(run, micro);
    const Gradients gradients = micro == 0 ? Gradients::overwrite : Gradients::add;
    forward_backward(run.stream, state.model(), state.batch, scales, state.sums.losses(), gradients, attention);
    if (fault_hits(FaultOperation::gradient)) spoil_gradient(run.stream, state);
    if (stop_wanted(run.comm)) return std::nullopt;
  }

  measure_local_gradients(run.stream, state);
  StepSums::Values step = state.sums.read(run.stream);
  check_finite(run, step);
  if (run.comm.size() > 1) {
    reduce_gradients(run.stream, run.comm, state);
    measure_gradients(run.stream, state);
    step.squared_norm = state.sums.read(run.stream).squared_norm;
    if (state.shape().zero_stage > 0) step.squared_norm = all_reduce(run.comm, step.squared_norm, ReduceOp::sum);
    for (double* sum : {&step.ce, &step.alignment, &step.selected_mass, &step.entropy})
      *sum = all_reduce(run.comm, *sum, ReduceOp::sum);
  }
  const double norm = std::sqrt(step.squared_norm);
  SSA_CHECK(std::isfinite(norm), "step ", run.step + 1,
            ": the gradients of each rank are finite, but their sum over all ", run.comm.size(),
            " ranks is not; the weights were not updated, the last checkpoint is ", run.store.last_checkpoint());
  const double clip = train.max_grad_norm > 0 ? std::min(1.0, train.max_grad_norm / (norm + 1e-6)) : 1.0;
  const double rate = learning_rate(train, run.step, run.total_steps);
  update_weights(run.stream, run.comm, state, train, rate, clip, run.step + 1);

  StepReport report;
  report.step = run.step + 1;
  report.epoch = static_cast<double>(run.step + 1) / static_cast<double>(run.plan.batches_per_epoch());
  report.step_tokens = run.plan.global_rows() * train.max_length;
  report.tokens = report.step * report.step_tokens;
  report.ce_loss = labels > 0 ? step.ce / static_cast<double>(labels) : 0.0;
  report.alignment_loss = step.alignment;
  report.loss =
      report.ce_loss + (run.branches().aligned ? run.config.attention.alignment_weight * step.alignment : 0.0);
  report.grad_norm = norm;
  report.learning_rate = rate;
  if (measure) {
    const auto positions = static_cast<double>(report.step_tokens * run.config.model.num_hidden_layers *
                                               run.config.model.num_attention_heads);
    report.selected_mass = step.selected_mass / positions;
    report.entropy = step.entropy / positions;
  }
  if (!run.branches().aligned)
    report.stream = run.branches().full ? "full" : "sparse";
  else if (run.config.attention.stream_granularity == StreamGranularity::row)
    report.stream = "mixed";
  else
    report.stream = draw_full_stream(run, 0) ? "full" : "sparse";
  return report;
}

/// Held-out loss: with selected and with full attention for ssa, else with the method's own attention.
void evaluate_into(Run& run, StepReport& report) {
  const ProfilerRange range("evaluate");
  enter_fault_place(FaultPlace::eval);
  const auto loss = [&](AttentionPath path) {
    return evaluate_rows(run.stream, run.comm, with_path(run.state.model(), path), run.state.batch,
                         run.state.sums.losses(), run.staging, *run.eval_loader)
        .mean();
  };
  if (run.branches().aligned) {
    report.eval_losses["eval_loss_sparse"] = loss(AttentionPath::selected);
    report.eval_losses["eval_loss_full"] = loss(AttentionPath::full);
  } else {
    report.eval_losses["eval_loss"] = loss(run.state.shape().pass.path);
  }
}

/// Fresh weights, or the weights of the checkpoint to resume from.
void start(Run& run, const std::string& resume) {
  run.step = run.store.restore(run.stream, run.state, resume);
  publish_weights(run.stream, run.comm, run.state);
  check_same_weights(run.stream, run.comm, run.state);
  SSA_CHECK(run.step <= run.total_steps, run.store.last_checkpoint(), " is at step ", run.step, ", the run ends at ",
            run.total_steps);
}

void save(Run& run) {
  const ProfilerRange range("save");
  enter_fault_place(FaultPlace::save);
  run.store.save(run.stream, run.state, run.step,
                 {.total_steps = run.total_steps,
                  .tokens = run.step * run.plan.global_rows() * run.config.train.max_length,
                  .global_rows = run.plan.global_rows(),
                  .rows_per_epoch = run.loader.rows()});
}

}  // namespace

int train(const Config& config, const TrainOptions& options, Comm& comm) {
  check_supported(state_shape(config, options.device, comm.size()));
  arm_faults(comm.rank());
  enter_fault_place(FaultPlace::start);
  catch_stop_signals();
  check_same_config(comm, config);
  Run run(config, options, comm);
  start_logging(config.output_dir, comm);
  start(run, options.resume);
  RunLog log(config, comm, run.stream, run.step, run.total_steps);
  if (run.step == run.total_steps) {
    log.say(concat(config.output_dir, " is already complete at step ", run.step, ": nothing is left to train"));
    log.say("  to train longer, raise train.max_steps or train.num_train_epochs");
    log.say("  to train anew, set another output_dir, or give --resume none");
    return kExitDone;
  }
  log.begin(run.table.parameter_count(), run.loader.rows(), run.plan.batches_per_epoch(), run.plan.dropped_rows());

  const auto due = [&](std::int64_t interval) { return interval > 0 && run.step % interval == 0; };
  while (run.step < run.total_steps) {
    std::optional<StepReport> report = train_step(run);
    if (!report) {
      save(run);
      run.store.finish();
      log.say(concat("stopped by signal ", stop_signal(), " after step ", run.step, "; saved ",
                     run.store.last_checkpoint()));
      return kExitStopped;
    }
    ++run.step;
    const bool last = run.step == run.total_steps;
    const bool evaluated = run.eval_loader && (due(config.train.eval_steps) || last);
    const bool saving = last || due(run.save_interval);
    log.pause_clock();
    if (evaluated) evaluate_into(run, *report);
    log.resume_clock();
    if (evaluated || last || due(config.train.logging_steps)) log.step(*report);
    if (!saving) continue;
    log.pause_clock();
    save(run);
    log.say("saved " + run.store.last_checkpoint());
    log.resume_clock();
  }
  run.store.finish();
  log.say("done");
  return kExitDone;
}

}  // namespace ssa
