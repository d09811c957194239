// The training loop. Read `train`, `train_steps` and `train_step` from top to bottom: this is the order of events of a
// run.
#include "ssa/train/train.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <optional>
#include <span>

#include "kernels/matmul/choice.h"
#include "ssa/base/fault.h"
#include "ssa/base/random.h"
#include "ssa/base/signals.h"
#include "ssa/comm/watchdog.h"
#include "ssa/data/batch_plan.h"
#include "ssa/data/row_loader.h"
#include "ssa/runtime/host_memory.h"
#include "ssa/runtime/profiler_range.h"
#include "ssa/train/batch_staging.h"
#include "ssa/train/dataset_fingerprint.h"
#include "ssa/train/evaluate.h"
#include "ssa/train/model_state.h"
#include "ssa/train/optimizer_step.h"
#include "ssa/train/rank_check.h"
#include "ssa/train/run_log.h"
#include "ssa/train/run_plan.h"
#include "ssa/train/run_store.h"
#include "ssa/train/schedule.h"
#include "ssa/train/spike_detector.h"
#include "ssa/train/state_snapshot.h"
#include "ssa/train/step_exchange.h"
#include "ssa/train/training_data.h"

namespace ssa {
namespace {

/// state_shape(), with checkpoint.async for all ranks where the config leaves it open.
struct RunShape {
  RunShape(const Config& config, DeviceKind device, Comm& comm) : state(state_shape(config, device, comm.size())) {
    if (config.checkpoint.async || !state.async_checkpoints) return;
    const ParamTable table(config.model, state.shards());
    const int on_machine = std::min(StateSnapshot::owners(state), comm.local_size());
    const std::size_t free = host_memory_info().free_bytes,
                      moments = plan_memory(state, table).host.bytes * static_cast<std::size_t>(comm.local_size());
    no_async = why_not_async(StateSnapshot::bytes(state, table), on_machine, free - std::min(free, moments),
                             comm.size() == 1 || comm.takes_threads());
    state.async_checkpoints = all_reduce(comm, no_async.empty() ? 0.0 : 1.0, ReduceOp::max) == 0;
    if (!state.async_checkpoints && no_async.empty()) no_async = "another machine has not enough free host memory";
  }

  StateShape state;
  std::string no_async;  ///< why checkpoint.async is false although the config does not say so
};

/// All parts of a run, built in this order.
struct Run {
  Run(const Config& config_in, const TrainOptions& options, const StateShape& shape, Comm& comm_in)
      : config(config_in),
        comm(comm_in),
        tasks(options.tasks),
        stream(options.device, comm_in.local_rank()),
        data(config),
        eval_sets(open_eval_sets(config, data)),
        source_states(data.source_states()),
        plan(plan_batches(config, data.plan_sources(), comm.size())),
        groups(comm, static_cast<int>(config.distributed.shard_size)),
        table(config.model, groups.shard().size()),
        state(stream, shape, table, groups.shard().rank()),
        exchange(stream, groups, state, config.distributed.overlap),
        moments(stream, state),
        staging(stream, state.shape().pass.rows, state.shape().pass.tokens),
        store(config, comm),
        spikes(config.train.spike_window) {}

  const Config& config;
  Comm& comm;
  const TaskEvaluation& tasks;
  Stream stream;
  TrainingData data;
  std::deque<EvalSet> eval_sets;
  std::vector<SourceState> source_states;  ///< of a run that starts now
  BatchPlan plan;
  RankGroups groups;
  ParamTable table;
  ModelState state;
  StepExchange exchange;
  MomentStaging moments;
  BatchStaging staging;
  RunStore store;
  SpikeDetector spikes;
  TrainerState at;    ///< trainer state other than weights, moments and spikes
  GlobalBatch batch;  ///< of the step being trained
  std::int64_t total_steps = 0, save_interval = 0;

  const RowLoader& loader_of(const RowRef& row) const {
    return data.sources()[static_cast<std::size_t>(row.source)].loader;
  }
  Branches branches() const { return branches_of(state.shape().pass.path, config.model); }
};

/// Whether a signal reached any rank.
bool stop_wanted(Comm& comm) { return all_reduce(comm, stop_signal() != 0 ? 1.0 : 0.0, ReduceOp::max) > 0; }

/// Whether sequence `row` of the global batch passes the output of full attention on, and not the sparse one.
bool draw_full_stream(const Run& run, std::int64_t row) {
  const AttentionConfig& a = run.config.attention;
  if (run.at.step < a.dense_warmup_steps) return true;
  const auto seed = static_cast<std::uint64_t>(run.config.train.seed);
  const bool by_row = a.stream_granularity == StreamGranularity::row;
  const auto step = static_cast<std::uint64_t>(run.at.step), index = static_cast<std::uint64_t>(by_row ? row : 0);
  return random_uniform(seed, RandomPurpose::stream, step, index) < a.full_stream_probability;
}

/// Puts micro-batch `micro` of this rank on the device.
void load_micro_batch(Run& run, std::int64_t micro) {
  const ProfilerRange range("load micro-batch");
  const std::span<const RowRef> rows = run.plan.micro_batch(run.batch, micro, run.comm.rank());
  const std::int64_t first = rows.data() - run.batch.rows.data();
  for (std::int64_t i = 0; i < std::ssize(rows); ++i) {
    const RowRef& row = rows[static_cast<std::size_t>(i)];
    run.staging.fill(i, run.loader_of(row), row.epoch, row.row, draw_full_stream(run, first + i));
  }
  run.staging.upload(run.state.batch);
}

/// Labels in the global batch. Every rank counts those of its rows, without reading tokens.
std::int64_t count_labels(const Run& run) {
  std::int64_t labels = 0;
  for (std::int64_t micro = 0; micro < run.plan.micro_batches(run.at.step); ++micro)
    for (const RowRef& row : run.plan.micro_batch(run.batch, micro, run.comm.rank()))
      labels += run.loader_of(row).label_count(row.epoch, row.row);
  return static_cast<std::int64_t>(all_reduce(run.comm, static_cast<double>(labels), ReduceOp::sum));
}

/// Scales that make losses and gradients independent of how the global batch is split into micro-batches.
PassScales pass_scales(const Run& run, std::int64_t labels) {
  const ModelConfig& m = run.config.model;
  const double elements = static_cast<double>(std::ssize(run.batch.rows) * run.config.train.max_length * m.q_width());
  const AttentionConfig& attention = run.config.attention;
  const double alignment = 1.0 / (elements * static_cast<double>(m.num_hidden_layers));
  return {.alignment = attention.aligned_outputs == AlignedOutputs::both ? alignment : alignment / 2,
          .ce_gradient = labels > 0 ? static_cast<float>(1.0 / static_cast<double>(labels)) : 0.0f,
          .alignment_gradient = static_cast<float>(attention.alignment_weight * alignment),
          .aligned_outputs = attention.aligned_outputs};
}

/// Whether the losses and gradients that this rank computed are finite.
bool is_finite(const Run& run, const StepSums::Values& local) {
  const auto finite = [](double value) { return std::isfinite(value); };
  return finite(local.ce) && finite(local.alignment) &&
         (run.comm.size() == 1 ? finite(local.squared_norm) : std::ranges::all_of(local.local_squared_norms, finite));
}

/// Replaces the sums of this rank by those over all ranks, in one reduction. Returns the first rank on which a loss or
/// a gradient is not finite; nullopt if there is none.
std::optional<int> add_ranks(Run& run, StepSums::Values& step) {
  const bool finite = is_finite(run, step);
  if (run.comm.size() == 1) return finite ? std::nullopt : std::optional<int>(0);
  if (!run.groups.first()) step.squared_norm = 0;  // every group has all gradients
  std::vector<double*> sums = {&step.ce, &step.alignment, &step.squared_norm};
  for (auto* layers : {&step.selected_mass, &step.entropy})
    for (double& sum : *layers) sums.push_back(&sum);
  std::vector<double> values = {finite ? 0.0 : 1.0};
  for (const double* sum : sums) values.push_back(*sum);
  all_reduce(run.comm, values, ReduceOp::sum);
  for (std::size_t i = 0; i < sums.size(); ++i) *sums[i] = values[i + 1];
  if (values[0] == 0) return std::nullopt;
  return static_cast<int>(all_reduce(run.comm, finite ? run.comm.size() : run.comm.rank(), ReduceOp::min));
}

/// How an error before an update ends. The checkpoint being written is completed first, so that the last one is named.
std::string state_left(Run& run) {
  const std::string problem = run.store.finish_after_error();
  return concat("the weights were not updated, the last checkpoint is ", run.store.last_checkpoint(), problem);
}

/// Stops before the update, naming the first tensor that is not finite in the order of the computation.
[[noreturn]] void fail_nonfinite(Run& run, const StepSums::Values& local, int rank) {
  std::string what =
      concat("ce_loss sum ", local.ce, ", alignment_loss ", local.alignment,
             ", first tensor that is not finite: ", first_nonfinite_tensor(run.stream, run.comm, run.state));
  what = broadcast(run.comm, what, rank);
  const RowRange rows = run.batch.numbers;
  fail("step ", run.at.step + 1, ": loss or gradient is not finite on rank ", rank, " (", what, ", rows ", rows.first,
       " to ", rows.last, "); ", state_left(run).c_str());
}

/// Logs a spike. Returns whether the update is to be skipped. Throws if it stops the run.
bool handle_spike(Run& run, const StepReport& report) {
  const TrainConfig& train = run.config.train;
  const RowRange rows = run.batch.numbers;
  const auto z_score = [](const std::optional<double>& z) { return z ? fmt::format("{:.1f}", *z) : "none yet"; };
  const std::string what = fmt::format(
      "step {}: spike: loss {} (z-score {}), gradient norm {:.4g} (z-score {}), train.spike_z_score {}, "
      "rows {} to {}",
      report.step, report.loss ? fmt::format("{:.4g}", *report.loss) : "none", z_score(report.spike.loss),
      report.grad_norm, z_score(report.spike.grad_norm), train.spike_z_score, rows.first, rows.last);
  switch (train.on_spike) {
    case OnSpike::log:
      if (run.comm.rank() == 0) spdlog::warn(what);
      return false;
    case OnSpike::stop:
      fail(what.c_str(), "; train.on_spike is stop: ", state_left(run).c_str(),
           "; data.skip_ranges can leave out the rows");
    case OnSpike::skip:
      ++run.at.skipped_updates;
      if (run.at.skipped_updates > train.max_skipped_updates)
        fail(what.c_str(), "; train.max_skipped_updates ", train.max_skipped_updates,
             " are used up: ", state_left(run).c_str());
      if (run.comm.rank() == 0)
        spdlog::warn("{}; update skipped, {} of at most {}", what, run.at.skipped_updates, train.max_skipped_updates);
      return true;
  }
  fail("train.on_spike: unknown value ", static_cast<int>(train.on_spike));
}

/// Counts the rows of the step that is done, by source.
void count_sources(Run& run, StepReport& report) {
  for (const RowRef& row : run.batch.rows) {
    SourceState& source = run.at.sources[static_cast<std::size_t>(row.source)];
    ++source.rows;
    source.tokens += run.config.train.max_length;
  }
  for (std::size_t i = 0; i < run.at.sources.size(); ++i) {
    const SourceState& source = run.at.sources[i];
    report.sources.push_back({source.name, source.rows, source.tokens, run.plan.source_epochs_at(run.at.position, i)});
  }
}

/// One optimizer step; nullopt when a signal arrived, in which case no state has changed.
std::optional<StepReport> train_step(Run& run) {
  const ProfilerRange range("step");
  enter_fault_place(FaultPlace::step, run.at.step + 1);
  const TrainConfig& train = run.config.train;
  const ModelState& state = run.state;
  run.batch = run.plan.batch_at(run.at.position, run.at.step);
  const std::int64_t labels = count_labels(run);
  const PassScales scales = pass_scales(run, labels);
  const bool measure =
      run.branches().aligned && train.attention_stats_steps > 0 && (run.at.step + 1) % train.attention_stats_steps == 0;
  const AttentionSums attention = measure ? state.sums.attention() : AttentionSums{};

  state.sums.clear(run.stream);
  const std::int64_t micro_batches = run.plan.micro_batches(run.at.step);
  for (std::int64_t micro = 0; micro < micro_batches; ++micro) {
    load_micro_batch(run, micro);
    if (micro + 1 == micro_batches) run.moments.prefetch();
    const PassHooks hooks = run.exchange.hooks(micro, micro_batches, [&] {
      if (fault_hits(FaultOperation::gradient)) spoil_gradient(run.stream, state);
    });
    forward_backward(run.stream, state.model(), state.batch, scales, state.sums.losses(), run.exchange.gradients(micro),
                     attention, hooks, micro == 0 ? Weights::changed : Weights::unchanged);
    if (stop_wanted(run.comm)) return std::nullopt;
  }

  run.exchange.finish_gradients();
  measure_gradients(run.stream, state);
  const StepSums::Values local = state.sums.read(run.stream);
  StepSums::Values step = local;
  // With on_spike `skip`, a loss that is not finite is a spike, unless the weights are not finite either.
  const std::optional<int> nonfinite = add_ranks(run, step);
  if (nonfinite && (train.on_spike != OnSpike::skip || !weights_are_finite(run.stream, run.comm, state)))
    fail_nonfinite(run, local, *nonfinite);

  StepReport report;
  report.step = run.at.step + 1;
  report.epoch = run.plan.epochs_at(run.batch.next, run.at.step);
  report.rows = run.batch.numbers;
  report.step_tokens = std::ssize(run.batch.rows) * train.max_length;
  report.tokens = run.at.tokens + report.step_tokens;
  report.alignment_loss = step.alignment;
  if (labels > 0) {
    report.ce_loss = step.ce / static_cast<double>(labels);
    report.loss =
        *report.ce_loss + (run.branches().aligned ? run.config.attention.alignment_weight * step.alignment : 0.0);
  } else if (run.comm.rank() == 0) {
    spdlog::warn("step {}: no token of rows {} to {} has a target, expected documents of at least 2 tokens: no loss",
                 report.step, report.rows.first, report.rows.last);
  }
  report.grad_norm = std::sqrt(step.squared_norm);
  if (!std::isfinite(report.grad_norm) && train.on_spike != OnSpike::skip)
    fail("step ", report.step, ": the gradients of each rank are finite, but their sum over all ", run.comm.size(),
         " ranks is not; ", state_left(run).c_str());
  report.learning_rate = learning_rate(train, run.at.step, run.total_steps);
  report.spike = run.spikes.scores(report.loss, report.grad_norm);
  if (measure) {
    const auto positions = static_cast<double>(report.step_tokens * run.config.model.num_attention_heads);
    for (auto* layers : {&step.selected_mass, &step.entropy})
      for (double& value : *layers) value /= positions;
    report.selected_mass = std::move(step.selected_mass);
    report.entropy = std::move(step.entropy);
  }
  if (!run.branches().aligned)
    report.stream = run.branches().full ? "full" : "sparse";
  else if (run.config.attention.stream_granularity == StreamGranularity::row &&
           run.at.step >= run.config.attention.dense_warmup_steps)
    report.stream = "mixed";
  else
    report.stream = draw_full_stream(run, 0) ? "full" : "sparse";

  const bool skipped = report.spike.above(train.spike_z_score) && handle_spike(run, report);
  if (!skipped) {
    const double clip = train.max_grad_norm > 0 ? std::min(1.0, train.max_grad_norm / (report.grad_norm + 1e-6)) : 1.0;
    run.store.before_update();
    update_weights(run.stream, run.exchange, run.moments, state, train, report.learning_rate, clip,
                   run.at.earlier_steps + report.step);
    run.spikes.add(report.loss, report.grad_norm);
  }
  report.skipped_updates = run.at.skipped_updates;
  run.at.step = report.step;
  run.at.position = run.batch.next;
  run.at.rows += std::ssize(run.batch.rows);
  run.at.tokens = report.tokens;
  if (run.plan.mixed()) count_sources(run, report);
  return report;
}

bool due(const Run& run, std::int64_t interval) {
  return run.at.step > 0 && (run.at.step == run.total_steps || (interval > 0 && run.at.step % interval == 0));
}

bool losses_due(const Run& run) { return !run.eval_sets.empty() && due(run, run.config.train.eval_steps); }

bool tasks_due(const Run& run) {
  const TrainConfig& train = run.config.train;
  return run.tasks.run && due(run, train.eval_tasks_steps > 0 ? train.eval_tasks_steps : train.eval_steps);
}

bool evaluation_due(const Run& run) { return losses_due(run) || tasks_due(run); }

/// The weights as every rank's ops read them, for tasks: a copy at ZeRO stage 3, which takes memory while it exists.
class WholeWeights {
 public:
  explicit WholeWeights(Run& run) : weights_(run.state.weights) {
    if (!run.state.shape().shards_weights()) return;
    memory_ = Buffer(run.stream, whole_weights_bytes(run.state.shape(), run.table));
    weights_ = Tensor(memory_.data(), run.state.weights.dtype(), {run.table.size()});
    for (const Bucket& bucket : run.table.buckets())
      run.groups.shard().all_gather(run.stream, run.state.owned_weights(bucket),
                                    weights_.rows(bucket.range.begin, bucket.range.end));
  }
  const Tensor& tensor() const { return weights_; }

 private:
  Buffer memory_;
  Tensor weights_;
};

/// The held-out losses and scores of tasks that are due: with selected and with full attention for ssa, else with the
/// method's own attention. nullopt when a signal arrived.
std::optional<EvalLosses> evaluate(Run& run) {
  const ProfilerRange range("evaluate");
  enter_phase(Phase::evaluation, run.at.step);
  run.exchange.finish_weights();
  enter_fault_place(FaultPlace::eval);
  const auto stop = [&] { return stop_wanted(run.comm); };
  std::function<PassHooks()> hooks;
  if (run.state.shape().shards_weights()) hooks = [&] { return run.exchange.forward_hooks(); };
  EvalLosses losses;
  for (const EvalSet& set : run.eval_sets) {
    if (!losses_due(run)) break;
    for (const auto& [attention, path] : evaluation_paths(run.config)) {
      const EvalSums sums = evaluate_rows(run.stream, run.comm, with_path(run.state.model(), path), run.state.batch,
                                          run.state.sums.losses(), run.staging, set.loader, {}, stop, hooks);
      if (sums.stopped) return std::nullopt;
      const std::string end = concat(attention, set.name.empty() ? "" : "/", set.name);
      losses["eval_loss" + end] = sums.mean();
      if (const auto bits = bits_per_byte(set.dataset, sums.mean())) losses["eval_bits_per_byte" + end] = *bits;
    }
  }
  if (!tasks_due(run)) return losses;
  const WholeWeights whole(run);
  const auto scores = run.tasks.run({run.stream, run.comm, run.table, whole.tensor()}, stop);
  if (!scores) return std::nullopt;
  losses.insert(scores->begin(), scores->end());
  return losses;
}

/// Ranks may see different files under one path.
void check_same_data(Run& run) {
  if (run.comm.size() == 1) return;
  const auto facts = [](const char* key, const Dataset& dataset, const std::string& fingerprint) {
    return concat(key, ": ", dataset.documents(), " documents, ", dataset.tokens(), " tokens, fingerprint ",
                  fingerprint);
  };
  std::vector<std::string> lines;
  for (std::size_t i = 0; i < run.source_states.size(); ++i) {
    const SourceState& state = run.source_states[i];
    const std::string key = state.name.empty() ? "data.path" : concat("data.sources ", state.name);
    lines.push_back(facts(key.c_str(), run.data.sources()[i].dataset, state.dataset));
    lines.push_back(concat(key, ", rows per epoch: ", state.rows_per_epoch));
  }
  for (const EvalSet& set : run.eval_sets)
    lines.push_back(facts(concat("data.eval_path", set.name.empty() ? "" : " ", set.name).c_str(), set.dataset,
                          dataset_fingerprint(set.dataset)));
  for (const std::string& task : run.tasks.lines) lines.push_back("train.eval_tasks: " + task);
  check_same_lines(run.comm, lines, "do all ranks see the same files?");
}

/// For the moments of all ranks on this machine, before any of them takes its part.
void check_host_memory(const Config& config, DeviceKind device, Comm& comm) {
  if (!config.train.offload_moments) return;
  const StateShape shape = state_shape(config, device, comm.size());
  const MemoryPlan plan = plan_memory(shape, ParamTable(config.model, shape.shards()));
  const std::string problem = why_no_host_memory(plan, comm.local_size(), host_memory_info().free_bytes);
  if (!problem.empty()) fail(problem);
  comm.barrier();
}

/// Sets the weights, new or from the checkpoint to resume from, and the number of steps.
void start(Run& run, const TrainOptions& options) {
  const bool mixed = run.data.mixed();
  const ResumedRun now{.config = run.config,
                       .dataset = mixed ? "" : run.source_states[0].dataset,
                       .global_rows = run.plan.batch_sizes(),
                       .rows_per_epoch = run.data.rows_per_epoch(),
                       .ranks = run.comm.size(),
                       .sources = mixed ? run.source_states : std::vector<SourceState>()};
  run.at = run.store.restore(run.stream, run.state, run.spikes,
                             {.resume = options.resume, .allowed_changes = options.allowed_changes, .run = now});
  run.at.dataset = now.dataset;
  run.at.ranks = now.ranks;
  run.at.rows_per_epoch = now.rows_per_epoch;
  if (mixed) run.data.set_orders(run.at.sources);
  run.total_steps = total_steps(run.config.train, run.plan, run.at.step, run.at.position);
  check_schedule(run.config.train, run.total_steps);
  if (run.store.continues_init_from()) check_branch(run.config.train, run.at.step, run.total_steps);
  run.at.total_steps = run.total_steps;
  run.save_interval = save_interval(run.config.checkpoint, run.total_steps);
  check_same_lines(run.comm, {concat("steps done: ", run.at.step), concat("steps of the run: ", run.total_steps)},
                   "do all ranks see the same checkpoints?");
  run.store.reserve(run.stream, run.state);
  publish_weights(run.stream, run.groups.shard(), run.state);
  check_same_weights(run.stream, run.comm, run.groups.shard(), run.state);
  SSA_CHECK(run.at.step <= run.total_steps, run.store.last_checkpoint(), " is at step ", run.at.step,
            ", the run ends at ", run.total_steps);
}

/// Rows, steps and batch sizes, for the log.
std::vector<std::string> epoch_lines(const BatchPlan& plan, std::int64_t max_length) {
  const std::string rows = fmt::format("{} sequences of {} tokens per epoch", plan.rows_per_epoch(), max_length);
  if (!plan.batch_sizes().constant()) {
    std::vector<std::string> lines = {rows};
    for (const std::string& line : batch_size_lines(plan, max_length)) lines.push_back(line);
    return lines;
  }
  std::vector<std::string> lines = {fmt::format("{}, {} steps per epoch", rows, plan.batches_per_epoch())};
  if (const std::int64_t dropped = plan.dropped_rows())
    lines.push_back(fmt::format("the last {} dropped in each epoch, too few for a global batch",
                                dropped == 1 ? "sequence is" : fmt::format("{} sequences are", dropped)));
  return lines;
}

/// What the log says of the data at the start.
std::vector<std::string> about_data(const Run& run) {
  const BatchPlan& plan = run.plan;
  std::vector<std::string> lines = epoch_lines(plan, run.config.train.max_length);
  for (const EvalSet& set : run.eval_sets)
    if (!set.dataset.text_bytes())
      lines.push_back(fmt::format("{} records no text_bytes: its loss is not given in bits per byte",
                                  set.dataset.directory().string()));
  for (const std::string& line : kept_lines(run.data)) lines.push_back(line);
  for (const std::string& line : packing_lines(run.data, run.config)) lines.push_back(line);
  if (run.data.mixed()) {
    const BatchSizes& sizes = plan.batch_sizes();
    const std::int64_t rows_left = sizes.rows_before(run.total_steps) - sizes.rows_before(run.at.step);
    for (const std::string& line : source_table(run.config, run.data, run.at, rows_left)) lines.push_back(line);
  }
  return lines;
}

void save(Run& run, RunLog& log) {
  const ProfilerRange range("save");
  enter_phase(Phase::save, run.at.step);
  run.store.begin_save();
  run.moments.finish();
  enter_fault_place(FaultPlace::save);
  run.at.metrics_lines = log.sync_metrics();
  run.at.global_rows = run.plan.global_rows(run.at.step);
  // checkpoint.keep_every and export_every count the checkpoints made every save_steps.
  const auto every = [&](std::int64_t n) {
    return n > 0 && run.save_interval > 0 && run.at.step % (n * run.save_interval) == 0;
  };
  run.store.save(
      run.stream, run.state, run.at, run.spikes,
      {.keep = every(run.config.checkpoint.keep_every), .export_too = every(run.config.checkpoint.export_every)});
}

/// The end of a run that received a signal: saves the state after the last completed step.
int stop(Run& run, RunLog& log) {
  save(run, log);
  run.store.finish();
  log.say(concat("stopped by signal ", stop_signal(), " after step ", run.at.step, "; saved ",
                 run.store.last_checkpoint()));
  return kExitStopped;
}

/// Trains to the last step, or until a signal. Returns the exit code.
int train_steps(Run& run, RunLog& log) {
  const auto every = [&](std::int64_t interval) { return interval > 0 && run.at.step % interval == 0; };
  const std::int64_t first_step = run.at.step;
  while (run.at.step < run.total_steps) {
    run.store.poll();
    enter_phase(run.at.step == first_step ? Phase::start : Phase::step, run.at.step + 1);
    std::optional<StepReport> report = train_step(run);
    if (!report) return stop(run, log);
    if (run.at.step == first_step + 1) log.say_choices(matmul_choice_report(run.stream));
    const bool last = run.at.step == run.total_steps;
    const bool evaluating = evaluation_due(run);
    const bool saving = last || every(run.save_interval);
    log.pause_clock();
    std::optional<EvalLosses> losses;
    if (evaluating) losses = evaluate(run);
    if (losses) report->eval_losses = *losses;
    log.resume_clock();
    if (evaluating || last || every(run.config.train.logging_steps)) log.step(*report);
    if (evaluating && !losses) return stop(run, log);
    if (!saving) continue;
    log.pause_clock();
    save(run, log);
    log.resume_clock();
  }
  enter_phase(Phase::save, run.at.step);
  run.store.finish();
  log.say("done");
  return kExitDone;
}

}  // namespace

int train(const Config& config, const TrainOptions& options, Comm& comm) {
  check_supported(state_shape(config, options.device, comm.size()));
  arm_faults(comm.rank());
  enter_fault_place(FaultPlace::start);
  handle_io_signals();
  check_same_command(comm, config, options);
  check_host_memory(config, options.device, comm);
  const RunShape shape(config, options.device, comm);
  Run run(config, options, shape.state, comm);
  check_same_data(run);
  start_logging(config.output_dir, comm);
  if (comm.rank() == 0 && !shape.no_async.empty())
    spdlog::info("checkpoints are not written while training continues (checkpoint.async): {}", shape.no_async);
  if (comm.rank() == 0)
    for (const std::string& note : config.model_notes) spdlog::warn("{}: {}", config.model_source, note);
  start(run, options);
  RunLog log(config, comm, run.stream,
             {.step = run.at.step,
              .tokens = run.at.tokens,
              .total_steps = run.total_steps,
              .resumed_from = run.store.last_checkpoint(),
              .metrics_lines = run.at.metrics_lines,
              .attended_length = attended_length(run.data, config)});
  const bool lacks =
      (losses_due(run) && log.lacks_evaluation("eval_loss")) || (tasks_due(run) && log.lacks_evaluation("task_"));
  if (all_reduce(comm, lacks ? 1.0 : 0.0, ReduceOp::max) > 0) {
    // A signal stopped the run in the evaluation after this step.
    const std::optional<EvalLosses> losses = evaluate(run);
    if (!losses) return stop(run, log);
    log.add_evaluation(*losses);
  }
  if (run.at.step == run.total_steps) {
    log.say(concat(run.store.last_checkpoint(), " is already complete at step ", run.at.step,
                   ": nothing is left to train"));
    log.say("  to train longer, raise train.max_steps or train.num_train_epochs");
    log.say("  to start over, set another output_dir, or give --resume none");
    return kExitDone;
  }
  log.begin(run.table.parameter_count(), about_data(run));
  log.say(schedule_line(config.train, run.total_steps));
  for (const std::string& task : options.tasks.lines) log.say("eval_tasks: " + task);

  try {
    return train_steps(run, log);
  } catch (const Error& error) {
    const std::string problem = run.store.finish_after_error();
    if (problem.empty()) throw;
    throw Error(error.what() + problem, error.exit_code());
  }
}

}  // namespace ssa
