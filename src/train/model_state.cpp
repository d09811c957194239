#include "ssa/train/model_state.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/attention/cuda_support.h"
#include "kernels/fp8_matmul/fp8_matmul.h"
#include "kernels/optimizer/optimizer.h"

namespace ssa {
namespace {

/// One arena per category, in the order in which the plan is printed.
struct StateArenas {
  Arena weights, gradients, optimizer, activations, batches;

  std::vector<std::pair<std::string, Arena*>> all() {
    return {{"weights", &weights},
            {"gradients", &gradients},
            {"optimizer state", &optimizer},
            {"activations", &activations},
            {"batches, sums, staging", &batches}};
  }
};

/// Elements that a checkpoint gathers at a time: a multiple of the ranks, at most 64 MiB and at most a bucket.
std::int64_t staging_elements(const StateShape& shape, const ParamTable& table) {
  std::int64_t largest = 0;
  for (const Bucket& bucket : table.buckets()) largest = std::max(largest, bucket.range.count());
  const std::int64_t unit = shape.ranks * ParamTable::kAlignment;
  return std::min(largest, std::max((std::int64_t{1} << 24) / unit, std::int64_t{1}) * unit);
}

/// Runs twice: over measuring arenas, and over arenas bound to memory.
StateTensors lay_out_state(StateArenas& arenas, const StateShape& shape, const ParamTable& table) {
  const ModelConfig& c = shape.model;
  const std::int64_t size = table.size(), owned = shape.zero_stage > 0 ? size / shape.ranks : size;
  const DType act = activation_dtype(shape.kind);

  StateTensors t;
  t.weights = arenas.weights.allocate("weights", act, {size});
  if (act != DType::f32) t.master = arenas.optimizer.allocate("master weights", DType::f32, {owned});
  if (shape.pass.backward) {
    t.gradients = arenas.gradients.allocate("gradients", DType::f32, {size});
    t.m = arenas.optimizer.allocate("first moments", DType::f32, {owned});
    t.v = arenas.optimizer.allocate("second moments", DType::f32, {owned});
  }
  t.activations = lay_out_activations(arenas.activations, c, shape.pass, shape.kind);
  t.batch = allocate_batch(arenas.batches, shape.pass);
  t.sums = StepSums(arenas.batches, c);
  if (shape.zero_stage > 0 && shape.ranks > 1)
    t.checkpoint_staging = arenas.batches.allocate("checkpoint staging", DType::f32, {staging_elements(shape, table)});
  return t;
}

/// The most scratch that an op of a step asks for: in the passes, and for the norm of the gradients.
std::size_t step_scratch_bytes(const StateShape& shape) {
  Stream stream = Stream::measuring(shape.kind);
  stream.measure_scratch(pass_scratch_bytes(shape.model, shape.pass, shape.kind));
  if (shape.pass.backward)
    squared_norm(stream, {.out = Tensor(nullptr, DType::f64, {1}), .x = Tensor(nullptr, DType::f32, {1})});
  return stream.scratch_bytes();
}

}  // namespace

std::size_t MemoryPlan::total() const {
  std::size_t sum = 0;
  for (const Category& c : categories) sum += c.bytes;
  return sum;
}

std::string MemoryPlan::to_string() const {
  constexpr std::size_t kEntriesShown = 6;
  std::string text;
  const auto line = [&](const std::string& name, std::size_t bytes) {
    text += fmt::format("{:<34}{:>16} bytes {:9.3f} GiB\n", name, bytes, static_cast<double>(bytes) / (1 << 30));
  };
  for (const Category& c : categories) {
    line(c.name, c.bytes);
    std::vector<Arena::Entry> largest = c.entries;
    std::stable_sort(largest.begin(), largest.end(), [](const auto& a, const auto& b) { return a.bytes > b.bytes; });
    if (largest.size() < 2) continue;
    for (std::size_t i = 0; i < std::min(largest.size(), kEntriesShown); ++i)
      line("  " + largest[i].name, largest[i].bytes);
  }
  line("total", total());
  return text;
}

void check_supported(const StateShape& shape) {
  const std::string no_fp8 = why_unsupported(shape.pass.fp8, shape.model, shape.pass.rows * shape.pass.tokens);
  if (!no_fp8.empty()) fail_usage("train.fp8: ", no_fp8);
  if (shape.kind != DeviceKind::cuda) return;
  const ModelConfig& c = shape.model;
  const bool selects = computed_branches(shape.pass, c).selected;
  const std::string reason = why_unsupported(c.head_dim, c.group(), selects ? c.block_size : 0);
  if (!reason.empty()) fail_usage("this model does not run on a GPU: ", reason, "; --device cpu takes any shape");
}

MemoryPlan plan_memory(const StateShape& shape, const ParamTable& table) {
  StateArenas arenas;
  lay_out_state(arenas, shape, table);
  MemoryPlan plan;
  for (const auto& [name, arena] : arenas.all()) {
    MemoryPlan::Category category{name, arena->used(), {}};
    for (const Arena::Entry& entry : arena->entries()) {
      const auto same = std::find_if(category.entries.begin(), category.entries.end(),
                                     [&](const Arena::Entry& e) { return e.name == entry.name; });
      if (same == category.entries.end())
        category.entries.push_back(entry);
      else
        same->bytes += entry.bytes;
    }
    plan.categories.push_back(category);
  }
  plan.categories.push_back({"scratch of the ops", step_scratch_bytes(shape), {}});
  return plan;
}

std::int64_t largest_micro_batch(StateShape shape, const ParamTable& table, std::size_t bytes) {
  const auto fits = [&](std::int64_t rows) {
    shape.pass.rows = rows;
    return plan_memory(shape, table).total() <= bytes;
  };
  std::int64_t fit = 0, too_many = 1;
  while (too_many <= (1 << 20) && fits(too_many)) {
    fit = too_many;
    too_many *= 2;
  }
  while (too_many - fit > 1) {
    const std::int64_t middle = (fit + too_many) / 2;
    (fits(middle) ? fit : too_many) = middle;
  }
  return fit;
}

ModelState::ModelState(Stream& stream, const StateShape& shape, const ParamTable& table, int rank)
    : shape_(shape), table_(table), rank_(rank) {
  check_supported(shape);
  if (const std::string reason = why_no_fp8(stream); shape.pass.fp8.any() && !reason.empty())
    fail_usage("train.fp8: ", reason);
  const MemoryPlan plan = plan_memory(shape, table);
  const MemoryInfo memory = stream.memory_info();
  if (plan.total() > memory.free_bytes)
    fail("out of memory: the plan needs ", plan.total(), " bytes, ", memory.free_bytes, " are free on ",
         stream.device_name(),
         "; largest per_device_train_batch_size that fits: ", largest_micro_batch(shape, table, memory.free_bytes),
         "\n", plan.to_string().c_str());

  StateArenas arenas;
  lay_out_state(arenas, shape, table);
  for (const auto& [name, arena] : arenas.all()) {
    buffers_.emplace_back(stream, arena->used());
    *arena = Arena(buffers_.back().data(), buffers_.back().bytes());
  }
  static_cast<StateTensors&>(*this) = lay_out_state(arenas, shape, table);
  for (const Tensor& tensor : {weights, master, gradients, m, v}) stream.zero(tensor);
  sums.clear(stream);
  stream.reserve_scratch(step_scratch_bytes(shape));

  model_ = bind_llama(shape.model, shape.pass, bind_params(table, shape.model, weights), activations,
                      shape.pass.backward ? bind_gradients(table, shape.model, gradients) : ModelGradients{});
  upload_rotary_table(stream, model_);
}

Range ModelState::owned(const Bucket& bucket) const {
  return shape_.zero_stage > 0 ? table_.slice(bucket, rank_) : bucket.range;
}

Tensor ModelState::owned_view(const Tensor& tensor, const Bucket& bucket) const {
  const std::int64_t shards = shape_.zero_stage > 0 ? shape_.ranks : 1;
  return tensor.rows(bucket.range.begin / shards, bucket.range.end / shards);
}

Tensor ModelState::owned_master(const Bucket& bucket) const {
  if (master) return owned_view(master, bucket);
  const Range range = owned(bucket);
  return weights.rows(range.begin, range.end);
}

void load_owned(Stream& stream, const ModelState& state, const Bucket& bucket, const Tensor& to,
                const ReadParam& read) {
  const Range owned = state.owned(bucket);
  std::vector<float> host(static_cast<std::size_t>(owned.count()), 0.0f);
  const auto& params = state.table().params();
  for (std::size_t i = 0; i < params.size(); ++i) {
    const std::int64_t begin = std::max(owned.begin, params[i].offset);
    const std::int64_t end = std::min(owned.end, params[i].offset + params[i].count());
    if (begin >= end) continue;
    const std::span<float> out(host.data() + (begin - owned.begin), static_cast<std::size_t>(end - begin));
    read(i, out, begin - params[i].offset);
  }
  stream.copy(to.data(), host.data(), host.size() * sizeof(float));
  stream.synchronize();
}

void load_master_weights(Stream& stream, const ModelState& state, const ReadParam& read) {
  for (const Bucket& bucket : state.table().buckets())
    load_owned(stream, state, bucket, state.owned_master(bucket), read);
}

}  // namespace ssa
