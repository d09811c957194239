#include "ssa/train/run_plan.h"

#include <fmt/format.h>

namespace ssa {
namespace {

DType dtype_of(FloatType type) { return type == FloatType::bf16 ? DType::bf16 : DType::f32; }

}  // namespace

RowOptions row_options(const Config& c, std::int64_t min_document_tokens) {
  return {.max_length = c.train.max_length,
          .packing = c.data.packing,
          .mask_block_size = c.data.document_mask ? c.model.block_size : 0,
          .shuffle = c.data.shuffle,
          .seed = static_cast<std::uint64_t>(c.train.seed),
          .skip_train_samples = c.data.skip_train_samples,
          .max_train_samples = c.data.max_train_samples,
          .min_document_tokens = min_document_tokens,
          .pad_id = static_cast<std::int32_t>(c.model.eos_token_id),
          .vocab_size = c.model.vocab_size};
}

Dataset open_dataset(const std::string& path, const Config& c) {
  Dataset dataset(path);
  dataset.check_model(c.model.vocab_size, c.model.eos_token_id);
  return dataset;
}

BatchPlan plan_batches(const Config& c, const std::vector<BatchPlan::Source>& sources, int ranks) {
  const std::int64_t micro_rows = c.train.per_device_train_batch_size;
  return BatchPlan({.sources = sources,
                    .mixed = !c.data.path,
                    .global_rows = batch_sizes(c.train, ranks),
                    .micro_rows = micro_rows,
                    .ranks = ranks,
                    .skip_ranges = c.data.skip_ranges});
}

std::vector<std::string> batch_size_lines(const BatchPlan& plan, std::int64_t max_length) {
  std::vector<std::string> lines;
  for (const auto& [step, rows] : plan.batch_sizes().schedule())
    lines.push_back(fmt::format("from step {}: {} rows per global batch, {} micro-batches per rank, {} tokens per step",
                                step, rows, plan.micro_batches(step), rows * max_length));
  return lines;
}

std::int64_t total_steps(const TrainConfig& train, const BatchPlan& plan, std::int64_t step,
                         const DataPosition& position) {
  if (train.max_steps > 0) return train.max_steps;
  return step + plan.batches_until(train.num_train_epochs, position, step);
}

std::vector<std::pair<std::string, AttentionPath>> evaluation_paths(const Config& config) {
  const AttentionPath own = training_path(config.attention.method);
  if (!branches_of(own, config.model).aligned) return {{"", own}};
  return {{"_sparse", AttentionPath::selected}, {"_full", AttentionPath::full}};
}

PhaseTimeouts phase_timeouts(const DistributedConfig& c) {
  return {.start = c.start_timeout_seconds,
          .step = c.timeout_seconds,
          .save = c.save_timeout_seconds,
          .evaluation = c.eval_timeout_seconds};
}

StateShape state_shape(const Config& c, DeviceKind device, int ranks) {
  std::vector<PassShape> tasks;
  if (!c.train.eval_tasks.empty())
    for (const auto& [attention, path] : evaluation_paths(c))
      tasks.push_back({.rows = c.train.per_device_train_batch_size,
                       .tokens = c.train.max_length,
                       .path = path,
                       .selection = c.attention.selection,
                       .backward = false});
  const auto shard_size = static_cast<int>(c.distributed.shard_size);
  if (shard_size > 0 && ranks % shard_size != 0)
    fail_usage("distributed.shard_size: found ", shard_size, ", expected a divisor of the number of ranks, ", ranks,
               ", or 0");
  return {.model = c.model,
          .pass = {.rows = c.train.per_device_train_batch_size,
                   .tokens = c.train.max_length,
                   .path = training_path(c.attention.method),
                   .selection = c.attention.selection,
                   .checkpointing = c.train.gradient_checkpointing,
                   .fp8 = Fp8Layers(c.model, c.train.fp8, c.train.fp8_exclude),
                   .document_mask = c.data.document_mask},
          .kind = device,
          .ranks = ranks,
          .zero_stage = static_cast<int>(c.distributed.zero_stage),
          .reduce_dtype = dtype_of(c.distributed.reduce_dtype),
          .moments_dtype = dtype_of(c.train.moments_dtype),
          .offload_moments = c.train.offload_moments,
          .tasks = std::move(tasks),
          .shard_size = shard_size,
          .async_checkpoints = c.checkpoint.async.value_or(device == DeviceKind::cuda)};
}

}  // namespace ssa
