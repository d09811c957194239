// The training loop. Read `train` and `train_step` from top to bottom: this is the order of events of a run.
#include "ssa/train/train.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <map>
#include <optional>

#include "ssa/base/random.h"
#include "ssa/base/signals.h"
#include "ssa/comm/watchdog.h"
#include "ssa/data/batch_plan.h"
#include "ssa/data/row_loader.h"
#include "ssa/train/batch_staging.h"
#include "ssa/train/evaluate.h"
#include "ssa/train/model_state.h"
#include "ssa/train/optimizer_step.h"
#include "ssa/train/rank_check.h"
#include "ssa/train/run_log.h"
#include "ssa/train/run_store.h"
#include "ssa/train/schedule.h"

namespace ssa {
namespace {

RowOptions row_options(const Config& c) {
  return {.max_length = c.train.max_length,
          .packing = c.data.packing,
          .shuffle = c.data.shuffle,
          .seed = static_cast<std::uint64_t>(c.train.seed),
          .skip_train_samples = c.data.skip_train_samples,
          .max_train_samples = c.data.max_train_samples,
          .pad_id = static_cast<std::int32_t>(c.model.eos_token_id),
          .vocab_size = c.model.vocab_size};
}

Dataset open_dataset(const std::string& path, const Config& c) {
  Dataset dataset(path);
  dataset.check_model(c.model.vocab_size, c.model.eos_token_id);
  return dataset;
}

BatchPlan plan_batches(const Config& c, std::int64_t rows, int ranks) {
  const std::int64_t micro_rows = c.train.per_device_train_batch_size;
  return BatchPlan({.rows_per_epoch = rows,
                    .global_rows = accumulation_steps(c.train, ranks) * micro_rows * ranks,
                    .micro_rows = micro_rows,
                    .ranks = ranks});
}

StateShape state_shape(const Config& c, DeviceKind device, int ranks) {
  return {.model = c.model,
          .pass = {.rows = c.train.per_device_train_batch_size,
                   .tokens = c.train.max_length,
                   .path = training_path(c.attention.method),
                   .checkpointing = c.train.gradient_checkpointing},
          .selection = c.attention.selection,
          .kind = device,
          .ranks = ranks,
          .zero_stage = static_cast<int>(c.distributed.zero_stage)};
}

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
  std::int64_t step = 0;  ///< completed updates; with the seed, all the state there is beside weights and moments

  bool is_ssa() const { return config.attention.method == Method::ssa; }
};

/// Whether a signal reached any rank.
bool stop_wanted(Comm& comm) { return all_reduce(comm, stop_signal() != 0 ? 1.0 : 0.0, ReduceOp::max) > 0; }

/// Whether row `row` of step `step` passes the full-attention stream on.
bool draw_full_stream(const Run& run, std::int64_t row) {
  const AttentionConfig& a = run.config.attention;
  const auto seed = static_cast<std::uint64_t>(run.config.train.seed);
  const bool by_row = a.stream_granularity == StreamGranularity::row;
  const auto step = static_cast<std::uint64_t>(run.step), index = static_cast<std::uint64_t>(by_row ? row : 0);
  return random_uniform(seed, RandomPurpose::stream, step, index) < a.full_stream_probability;
}

/// Puts micro-batch `micro` of this rank on the device.
void load_micro_batch(Run& run, std::int64_t micro) {
  const std::int64_t epoch = run.plan.epoch(run.step);
  const std::int64_t first = run.plan.first_row(run.step, micro, run.comm.rank());
  const std::int64_t batch_begin = run.plan.first_row(run.step);
  for (std::int64_t i = 0; i < run.state.shape().pass.rows; ++i)
    run.staging.fill(i, run.loader, epoch, first + i, draw_full_stream(run, first + i - batch_begin));
  run.staging.upload(run.state.batch);
}

/// Labels in the global batch: every rank counts all of its rows, which reads no tokens.
std::int64_t count_labels(const Run& run) {
  std::int64_t labels = 0;
  for (std::int64_t i = 0; i < run.plan.global_rows(); ++i)
    labels += run.loader.label_count(run.plan.epoch(run.step), run.plan.first_row(run.step) + i);
  return labels;
}

/// How a micro-batch counts in the step, so that nothing depends on how the global batch is cut.
PassScales pass_scales(const Run& run, std::int64_t labels) {
  const ModelConfig& m = run.config.model;
  const double elements = static_cast<double>(run.plan.global_rows() * run.config.train.max_length * m.q_width());
  const double alignment = 1.0 / (elements * static_cast<double>(m.num_hidden_layers));
  return {.alignment = alignment,
          .ce_gradient = labels > 0 ? static_cast<float>(1.0 / static_cast<double>(labels)) : 0.0f,
          .alignment_gradient = static_cast<float>(run.config.attention.alignment_weight * alignment)};
}

/// The sums of a step on the host.
struct HostSums {
  double ce, alignment, squared_norm, selected_mass, entropy;
};

HostSums read_sums(Run& run) {
  std::vector<double> all(static_cast<std::size_t>(run.state.all_sums.count()));
  run.stream.copy(all.data(), run.state.all_sums.data(), run.state.all_sums.bytes());
  run.stream.synchronize();
  const std::size_t heads = (all.size() - 3) / 2;
  HostSums sums{all[0], all[1], all[2], 0, 0};
  for (std::size_t i = 0; i < heads; ++i) sums.selected_mass += all[3 + i], sums.entropy += all[3 + heads + i];
  return sums;
}

/// Stops before the update when a loss or gradient is not finite, naming the first rank and tensor at fault.
void check_finite(Run& run, const HostSums& local) {
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

/// One optimizer step; nothing when a signal came in: the step is then as if it had not begun.
std::optional<StepReport> train_step(Run& run) {
  const TrainConfig& train = run.config.train;
  const ModelState& state = run.state;
  const std::int64_t labels = count_labels(run);
  const PassScales scales = pass_scales(run, labels);
  const bool measure =
      run.is_ssa() && train.attention_stats_steps > 0 && (run.step + 1) % train.attention_stats_steps == 0;
  const PassSums sums = measure ? state.sums : PassSums{.ce = state.sums.ce, .alignment = state.sums.alignment};

  run.stream.zero(state.all_sums);
  for (std::int64_t micro = 0; micro < run.plan.micro_batches(); ++micro) {
    load_micro_batch(run, micro);
    const Gradients gradients = micro == 0 ? Gradients::overwrite : Gradients::add;
    forward_backward(run.stream, state.model(), state.batch, scales, sums, gradients);
    if (stop_wanted(run.comm)) return std::nullopt;
  }

  measure_gradients(run.stream, state);
  HostSums step = read_sums(run);
  check_finite(run, step);
  if (run.comm.size() > 1) {
    reduce_gradients(run.stream, run.comm, state);
    measure_gradients(run.stream, state);
    step.squared_norm = read_sums(run).squared_norm;
    if (state.shape().zero_stage > 0) step.squared_norm = all_reduce(run.comm, step.squared_norm, ReduceOp::sum);
    for (double* sum : {&step.ce, &step.alignment, &step.selected_mass, &step.entropy})
      *sum = all_reduce(run.comm, *sum, ReduceOp::sum);
  }
  const double norm = std::sqrt(step.squared_norm);
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
  report.loss = report.ce_loss + (run.is_ssa() ? run.config.attention.alignment_weight * step.alignment : 0.0);
  report.grad_norm = norm;
  report.learning_rate = rate;
  if (measure) {
    const auto positions = static_cast<double>(report.step_tokens * run.config.model.num_hidden_layers *
                                               run.config.model.num_attention_heads);
    report.selected_mass = step.selected_mass / positions;
    report.entropy = step.entropy / positions;
  }
  if (!run.is_ssa())
    report.stream = run.config.attention.method == Method::full ? "full" : "sparse";
  else if (run.config.attention.stream_granularity == StreamGranularity::row)
    report.stream = "mixed";
  else
    report.stream = draw_full_stream(run, 0) ? "full" : "sparse";
  return report;
}

/// Held-out loss: under both streams for ssa, else under the method's own attention.
void evaluate_into(Run& run, StepReport& report) {
  watchdog_phase(Phase::evaluation, run.step);
  const auto loss = [&](bool full_stream) {
    return evaluate_rows(run.stream, run.comm, one_stream(run.state.model(), full_stream), run.state.batch,
                         run.state.all_sums, run.state.sums, run.staging, *run.eval_loader)
        .mean();
  };
  if (run.is_ssa()) {
    report.eval_losses["eval_loss_sparse"] = loss(false);
    report.eval_losses["eval_loss_full"] = loss(true);
  } else {
    report.eval_losses["eval_loss"] = loss(false);
  }
}

/// Fresh weights, or those of the checkpoint to go on from.
void start(Run& run, const std::string& resume) {
  run.step = run.store.restore(run.stream, run.state, resume);
  publish_weights(run.stream, run.comm, run.state);
  check_same_weights(run.stream, run.comm, run.state);
  SSA_CHECK(run.step <= run.total_steps, run.store.last_checkpoint(), " is at step ", run.step, ", the run ends at ",
            run.total_steps);
}

void save(Run& run) {
  watchdog_phase(Phase::save, run.step);
  run.store.save(run.stream, run.state, run.step,
                 {.total_steps = run.total_steps,
                  .tokens = run.step * run.plan.global_rows() * run.config.train.max_length,
                  .global_rows = run.plan.global_rows(),
                  .rows_per_epoch = run.loader.rows()});
}

}  // namespace

int train(const Config& config, const TrainOptions& options, Comm& comm) {
  check_supported(state_shape(config, options.device, comm.size()));
  catch_signals();
  const DistributedConfig& d = config.distributed;
  start_watchdog(comm, {.start = d.start_timeout_seconds,
                        .step = d.timeout_seconds,
                        .save = d.save_timeout_seconds,
                        .evaluation = d.eval_timeout_seconds});
  check_same_config(comm, config);
  Run run(config, options, comm);
  start_logging(config.output_dir, comm);
  start(run, options.resume);
  RunLog log(config, comm, run.stream, run.step, run.total_steps);
  log.begin(run.table.parameter_count(), run.loader.rows(), run.plan.batches_per_epoch(), run.plan.dropped_rows());

  const auto due = [&](std::int64_t interval) { return interval > 0 && run.step % interval == 0; };
  const std::int64_t first_step = run.step;
  while (run.step < run.total_steps) {
    watchdog_phase(run.step == first_step ? Phase::start : Phase::step, run.step + 1);
    std::optional<StepReport> report = train_step(run);
    if (!report) {
      save(run);
      run.store.finish();
      log.say(concat("stopped by signal ", stop_signal(), " after step ", run.step, "; saved ",
                     run.store.last_checkpoint()));
      stop_watchdog();
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
  watchdog_phase(Phase::save, run.step);
  run.store.finish();
  log.say("done");
  stop_watchdog();
  return kExitDone;
}

std::string describe_run(const Config& config, DeviceKind device, int ranks) {
  check_supported(state_shape(config, device, ranks));
  const ParamTable table(config.model, ranks);
  std::string text = "config\n";
  for (const std::string& line : config_lines(config)) text += "  " + line + "\n";

  std::map<std::string, std::int64_t> groups;
  for (const Param& p : table.params()) {
    constexpr std::size_t kLayer = std::string_view("model.layers.").size();
    const bool in_layer = p.name.starts_with("model.layers.");
    groups[in_layer ? concat("model.layers.*", p.name.substr(p.name.find('.', kLayer))) : p.name] += p.count();
  }
  text += "\nparameters\n";
  const auto line = [&](std::string name, std::int64_t count) {
    name.resize(std::max<std::size_t>(name.size(), 54), ' ');
    text += concat("  ", name, count, "\n");
  };
  for (const auto& [name, count] : groups) line(name, count);
  line("total", table.parameter_count());

  text += concat("\nmemory on ", name_of(device), ", bytes a rank\n");
  text += plan_memory(state_shape(config, device, ranks), table).to_string();
  if (device == DeviceKind::cuda) text += "beside it, the CUDA context, 64 MiB for cuBLASLt and NCCL's buffers\n";

  text += "\ndata\n";
  if (!std::filesystem::exists(config.data.path)) return text + "  " + config.data.path + " is not there yet\n";
  const Dataset dataset = open_dataset(config.data.path, config);
  const RowLoader loader(dataset, row_options(config));
  const BatchPlan plan = plan_batches(config, loader.rows(), ranks);
  const std::int64_t steps = total_steps(config.train, plan.batches_per_epoch());
  const std::int64_t step_tokens = plan.global_rows() * config.train.max_length;
  text += concat("  documents                ", dataset.documents(), "\n  tokens                   ", dataset.tokens(),
                 "\n  rows per epoch           ", loader.rows(), "\n  rows per global batch    ", plan.global_rows(),
                 "\n  micro-batches per step   ", plan.micro_batches(), " on each of ", ranks, " ranks",
                 "\n  steps per epoch          ", plan.batches_per_epoch(), "\n  steps                    ", steps,
                 "\n  tokens of the run        ", steps * step_tokens, "\n");
  return text;
}

}  // namespace ssa
