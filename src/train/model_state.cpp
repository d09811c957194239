#include "ssa/train/model_state.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/attention/cuda_support.h"
#include "kernels/fp8_matmul/fp8_matmul.h"
#include "kernels/optimizer/optimizer.h"
#include "ssa/runtime/host_memory.h"
#include "ssa/train/evaluate.h"
#include "ssa/train/state_snapshot.h"

namespace ssa {
namespace {

/// One arena per category, in the order in which the plan is printed.
struct StateArenas {
  Arena weights, gradients, optimizer, activations, batches;
  Arena moments;  ///< in pinned host memory

  std::vector<std::pair<std::string, Arena*>> on_device() {
    return {{"weights", &weights},
            {"gradients", &gradients},
            {"optimizer state", &optimizer},
            {"activations", &activations},
            {"batches, sums, staging", &batches}};
  }
};

std::int64_t largest_bucket(const ParamTable& table) {
  std::int64_t largest = 0;
  for (const Bucket& bucket : table.buckets()) largest = std::max(largest, bucket.range.count());
  return largest;
}

/// A tensor per bucket for one pass: `what` are gradients at ZeRO stage 2 or weights at stage 3. With `share_ends` an
/// untied LM head has the memory of the embedding.
std::vector<Tensor> lay_out_pass_buckets(Arena& arena, const ModelConfig& c, const ParamTable& table,
                                         const std::string& what, DType dtype, bool share_ends) {
  const BucketOrder order(c);
  std::vector<Tensor> buckets;
  for (std::size_t i = 0; i < table.buckets().size(); ++i) {
    const bool in_layer = i >= order.first_layer && i < order.layer(c.num_hidden_layers);
    if (in_layer && i - order.first_layer >= kLayerBuffers) {
      buckets.push_back(buckets[i - kLayerBuffers]);
    } else if (share_ends && i == order.head && order.head != order.embedding) {
      buckets.push_back(buckets[order.embedding]);
    } else {
      const std::string name = concat(in_layer ? "layer " : "other ", what, " of a pass");
      buckets.push_back(arena.allocate(name, dtype, {table.buckets()[i].range.count()}));
    }
  }
  return buckets;
}

/// The moments and, where they are offloaded, their staging buffers. A buffer has a piece of a bucket, because buckets
/// differ in size.
void lay_out_moments(StateArenas& arenas, const StateShape& shape, const ParamTable& table, std::int64_t owned,
                     StateTensors& t) {
  Arena& home = shape.offload_moments ? arenas.moments : arenas.optimizer;
  t.m = home.allocate("first moments", shape.moments_dtype, {owned});
  t.v = home.allocate("second moments", shape.moments_dtype, {owned});
  if (!shape.offload_moments) return;
  const std::int64_t shards = shape.shards_state() ? shape.shards() : 1;
  const std::int64_t piece = std::min(shape.moments_piece, largest_bucket(table) / shards);
  for (std::size_t i = 0; i < kMomentBuffers; ++i) {
    const Tensor m = arenas.optimizer.allocate("staging of moments", shape.moments_dtype, {piece});
    t.moment_staging.push_back({m, arenas.optimizer.allocate("staging of moments", shape.moments_dtype, {piece})});
  }
}

/// At ZeRO stage 3 the exchange writes the weights in FP8.
PassShape pass_of(const StateShape& shape) {
  PassShape pass = shape.pass;
  pass.fp8_weights_given = shape.pass.backward && shape.shards_weights();
  return pass;
}

/// The gradients as the model's backward pass sees them.
ModelGradients bind_pass_gradients(const ModelState& state) {
  const ModelConfig& c = state.shape().model;
  if (!state.shape().pass.backward) return {};
  if (!state.shape().shards_gradients()) return bind_gradients(state.table(), c, state.gradients);
  // All that a layer's products do not overwrite is padding, which is zero since the start. Clearing it in every pass
  // would write to a buffer that another layer may be using.
  std::vector<Tensor> cleared = state.pass_gradients;
  const BucketOrder order(c);
  for (std::int64_t i = 0; i < c.num_hidden_layers; ++i) cleared[order.layer(i)] = Tensor();
  return {bind_params(state.table(), c, state.pass_gradients), added_gradients(state.table(), c, cleared)};
}

/// Runs twice: over measuring arenas, and over arenas bound to memory.
StateTensors lay_out_state(StateArenas& arenas, const StateShape& shape, const ParamTable& table) {
  const ModelConfig& c = shape.model;
  const std::int64_t size = table.size(), owned = shape.shards_state() ? size / shape.shards() : size;
  const DType act = activation_dtype(shape.kind);
  const PassShape pass = pass_of(shape);

  StateTensors t;
  if (shape.shards_weights()) {
    t.weights = arenas.weights.allocate("shard of the weights", act, {owned});
    t.pass_weights = lay_out_pass_buckets(arenas.weights, c, table, "weights", act, /*share_ends=*/true);
    if (pass.fp8_weights_given && pass.fp8.any_linear())
      t.fp8_layers = lay_out_gathered_fp8(arenas.weights, c, pass.fp8, table, t.pass_weights);
  } else {
    t.weights = arenas.weights.allocate("weights", act, {size});
    t.pass_weights = split_by_bucket(table, t.weights);
  }
  if (act != DType::f32) t.master = arenas.optimizer.allocate("master weights", DType::f32, {owned});
  if (shape.pass.backward) {
    if (shape.shards_gradients()) {
      t.gradients = arenas.gradients.allocate("shard of the gradients", DType::f32, {owned});
      t.pass_gradients =
          lay_out_pass_buckets(arenas.gradients, c, table, "gradients", DType::f32, /*share_ends=*/false);
    } else {
      t.gradients = arenas.gradients.allocate("gradients", DType::f32, {size});
      t.pass_gradients = split_by_bucket(table, t.gradients);
    }
    if (shape.ranks > 1 && shape.reduce_dtype == DType::bf16)
      t.reduce_staging = arenas.gradients.allocate("bucket in bf16", DType::bf16, {largest_bucket(table)});
    lay_out_moments(arenas, shape, table, owned, t);
  }
  t.activations = lay_out_activations(arenas.activations, c, pass, shape.kind);
  for (const Fp8GatheredLayer& layer : t.fp8_layers) t.activations.fp8.weights.push_back(layer.weights);
  t.batch = allocate_batch(arenas.batches, shape.pass);
  t.sums = StepSums(arenas.batches, c, table.buckets().size());
  return t;
}

/// What an arena has, summed by name.
MemoryPlan::Category category_of(const std::string& name, const Arena& arena) {
  MemoryPlan::Category category{name, arena.used(), {}};
  for (const Arena::Entry& entry : arena.entries()) {
    const auto same = std::ranges::find(category.entries, entry.name, &Arena::Entry::name);
    if (same == category.entries.end())
      category.entries.push_back(entry);
    else
      same->bytes += entry.bytes;
  }
  return category;
}

/// The most scratch that an op of a step asks for: in the passes, and for the norm of the gradients.
std::size_t step_scratch_bytes(const StateShape& shape) {
  Stream stream = Stream::measuring(shape.kind);
  stream.measure_scratch(pass_scratch_bytes(shape.model, shape.pass, shape.kind));
  if (shape.pass.backward)
    squared_norm(stream, {.out = Tensor(nullptr, DType::f64, {1}), .x = Tensor(nullptr, DType::f32, {1})});
  for (const PassShape& pass : shape.tasks) stream.measure_scratch(pass_scratch_bytes(shape.model, pass, shape.kind));
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
  const auto lines = [&](const Category& c) {
    line(c.name, c.bytes);
    std::vector<Arena::Entry> largest = c.entries;
    std::stable_sort(largest.begin(), largest.end(), [](const auto& a, const auto& b) { return a.bytes > b.bytes; });
    if (largest.size() < 2) return;
    for (std::size_t i = 0; i < std::min(largest.size(), kEntriesShown); ++i)
      line("  " + largest[i].name, largest[i].bytes);
  };
  for (const Category& c : categories) lines(c);
  line("total", total());
  if (host.bytes > 0) lines(host);
  if (checkpoints.bytes > 0) lines(checkpoints);
  return text;
}

std::string why_no_host_memory(const MemoryPlan& plan, int ranks, std::size_t free) {
  const std::size_t wanted = plan.host.bytes * static_cast<std::size_t>(ranks);
  if (wanted <= free) return {};
  return concat("out of host memory: train.offload_moments=true needs ", wanted, " bytes of pinned memory for the ",
                ranks, " ranks on this machine, ", free, " are free");
}

std::size_t whole_weights_bytes(const StateShape& shape, const ParamTable& table) {
  return static_cast<std::size_t>(table.size()) * size_of(activation_dtype(shape.kind));
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
  for (const auto& [name, arena] : arenas.on_device()) plan.categories.push_back(category_of(name, *arena));
  if (arenas.moments.used() > 0) {
    const bool apart = shape.kind == DeviceKind::cuda;
    MemoryPlan::Category& of_moments = apart ? plan.host : plan.categories.emplace_back();
    of_moments = category_of(apart ? "pinned host memory, in addition" : "moments in host memory", arenas.moments);
  }
  if (shape.pass.backward)
    plan.checkpoints = {
        concat(shape.kind == DeviceKind::cuda ? "pinned host memory, checkpoints" : "host memory, checkpoints",
               shape.shards_state() || shape.ranks == 1 ? "" : " (rank 0)"),
        StateSnapshot::bytes(shape, table),
        {}};
  if (!shape.tasks.empty()) {
    std::size_t most = 0;
    for (const PassShape& pass : shape.tasks) {
      Arena measure;
      lay_out_forward(measure, shape.model, pass, shape.kind);
      most = std::max(most, measure.used());
    }
    if (shape.shards_weights()) most += whole_weights_bytes(shape, table);
    plan.categories.push_back({"eval_tasks, while they run", most, {}});
  }
  plan.categories.push_back({"scratch of the ops", step_scratch_bytes(shape), {}});
  return plan;
}

std::int64_t largest_micro_batch(StateShape shape, const ParamTable& table, std::size_t bytes) {
  const auto fits = [&](std::int64_t rows) {
    shape.pass.rows = rows;
    for (PassShape& pass : shape.tasks) pass.rows = rows;
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

namespace {

/// The largest micro-batch with offloaded moments: ", with train.offload_moments=true: 3". Empty where they take
/// the same memory.
std::string with_offload(StateShape shape, const ParamTable& table, std::size_t bytes) {
  if (shape.offload_moments || shape.kind == DeviceKind::cpu || !shape.pass.backward) return {};
  shape.offload_moments = true;
  return concat(", with train.offload_moments=true: ", largest_micro_batch(shape, table, bytes));
}

/// What the ZeRO stages above the shape's would hold: ", with distributed.zero_stage=1: 3, =2: 5, =3: 6".
std::string at_higher_stages(StateShape shape, const ParamTable& table, std::size_t bytes) {
  std::string text;
  if (shape.shards() == 1) return text;
  while (++shape.zero_stage <= 3)
    text += concat(text.empty() ? ", with distributed.zero_stage=" : ", =", shape.zero_stage, ": ",
                   largest_micro_batch(shape, table, bytes));
  return text;
}

}  // namespace

std::string memory_advice(const StateShape& shape, const ParamTable& table, std::size_t bytes) {
  return concat("largest per_device_train_batch_size that fits: ", largest_micro_batch(shape, table, bytes),
                at_higher_stages(shape, table, bytes), with_offload(shape, table, bytes));
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
         stream.device_name(), "; ", memory_advice(shape, table, memory.free_bytes).c_str(), "\n",
         plan.to_string().c_str());

  StateArenas arenas;
  lay_out_state(arenas, shape, table);
  const auto bind = [&](Arena& arena, Buffer::Place place) {
    buffers_.emplace_back(stream, arena.used(), place);
    arena = Arena(buffers_.back().data(), buffers_.back().bytes());
  };
  for (const auto& [name, arena] : arenas.on_device()) bind(*arena, Buffer::Place::device);
  if (arenas.moments.used() > 0) bind(arenas.moments, Buffer::Place::host);
  static_cast<StateTensors&>(*this) = lay_out_state(arenas, shape, table);
  for (const Tensor& tensor : {weights, master, gradients}) stream.zero(tensor);
  for (const Tensor& tensor : {m, v})
    if (shape.offload_moments)
      zero_on_host(tensor.data(), tensor.bytes());
    else
      stream.zero(tensor);
  for (const auto* buckets : {&pass_weights, &pass_gradients})
    for (const Tensor& tensor : *buckets) stream.zero(tensor);
  for (const Fp8GatheredLayer& layer : fp8_layers)
    if (layer.maxima) stream.zero(layer.maxima);
  sums.clear(stream);
  stream.reserve_scratch(step_scratch_bytes(shape));

  model_ = bind_llama(shape.model, pass_of(shape), bind_params(table, shape.model, pass_weights), activations,
                      bind_pass_gradients(*this));
  upload_rotary_table(stream, model_);
}

Range ModelState::owned(const Bucket& bucket) const {
  return shape_.shards_state() ? table_.slice(bucket, rank_) : bucket.range;
}

Tensor ModelState::owned_view(const Tensor& tensor, const Bucket& bucket) const {
  const std::int64_t shards = shape_.shards_state() ? shape_.shards() : 1;
  return tensor.rows(bucket.range.begin / shards, bucket.range.end / shards);
}

Tensor ModelState::owned_gradients(const Bucket& bucket) const {
  if (shape_.shards_gradients()) return owned_view(gradients, bucket);
  const Range range = owned(bucket);
  return gradients.rows(range.begin, range.end);
}

Tensor ModelState::gradient_slice(const Bucket& bucket) const {
  if (shape_.shards_gradients()) return owned_gradients(bucket);
  const Range range = table_.slice(bucket, rank_);
  return gradients.rows(range.begin, range.end);
}

Tensor ModelState::owned_weights(const Bucket& bucket) const {
  if (shape_.shards_weights()) return owned_view(weights, bucket);
  const Range range = owned(bucket);
  return weights.rows(range.begin, range.end);
}

Tensor ModelState::owned_master(const Bucket& bucket) const {
  return master ? owned_view(master, bucket) : owned_weights(bucket);
}

std::vector<float> read_range(const ParamTable& table, Range range, const ReadParam& read) {
  std::vector<float> host(static_cast<std::size_t>(range.count()), 0.0f);
  const auto& params = table.params();
  for (std::size_t i = 0; i < params.size(); ++i) {
    const std::int64_t begin = std::max(range.begin, params[i].offset);
    const std::int64_t end = std::min(range.end, params[i].offset + params[i].count());
    if (begin >= end) continue;
    const std::span<float> out(host.data() + (begin - range.begin), static_cast<std::size_t>(end - begin));
    read(i, out, begin - params[i].offset);
  }
  return host;
}

void load_owned(Stream& stream, const ModelState& state, const Bucket& bucket, const Tensor& to,
                const ReadParam& read) {
  const std::vector<float> host = read_range(state.table(), state.owned(bucket), read);
  std::vector<bfloat16> narrow;
  if (to.dtype() == DType::bf16) {
    narrow.reserve(host.size());
    for (const float value : host) narrow.emplace_back(value);
    stream.copy(to.data(), narrow.data(), to.bytes());
  } else {
    stream.copy(to.data(), host.data(), to.bytes());
  }
  stream.synchronize();
}

void load_master_weights(Stream& stream, const ModelState& state, const ReadParam& read) {
  for (const Bucket& bucket : state.table().buckets())
    load_owned(stream, state, bucket, state.owned_master(bucket), read);
}

}  // namespace ssa
