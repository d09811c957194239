#include "ssa/eval/forward_pass.h"

#include <algorithm>

#include "kernels/matmul/matmul.h"
#include "ssa/data/row_loader.h"
#include "ssa/io/huggingface.h"
#include "ssa/runtime/arena.h"
#include "ssa/train/model_state.h"

namespace ssa::eval {
namespace {

constexpr std::int64_t kPieceElements = std::int64_t{1} << 22;  ///< of a parameter, read at a time

/// Where each sum of a pass is reported.
struct MeasuredSum {
  Tensor AttentionSums::*on_device;
  std::vector<double> ForwardPass::Measured::*on_host;
};
constexpr MeasuredSum kMeasuredSums[] = {{&AttentionSums::selected_mass, &ForwardPass::Measured::selected_mass},
                                         {&AttentionSums::entropy, &ForwardPass::Measured::entropy},
                                         {&AttentionSums::distance, &ForwardPass::Measured::distance},
                                         {&AttentionSums::norm, &ForwardPass::Measured::norm},
                                         {&AttentionSums::sink, &ForwardPass::Measured::sink}};

/// Copies to or from host memory that is not pinned, and waits for the copy.
void copy_now(Stream& stream, void* to, const void* from, std::size_t bytes) {
  stream.copy(to, from, bytes);
  stream.synchronize();
}

/// The index of the largest of n logits.
template <class Logit>
std::int32_t arg_max(const Logit* logits, std::int64_t n) {
  std::int64_t best = 0;
  for (std::int64_t i = 1; i < n; ++i)
    if (static_cast<float>(logits[i]) > static_cast<float>(logits[best])) best = i;
  return static_cast<std::int32_t>(best);
}

}  // namespace

LoadedModel::LoadedModel(Stream& stream, const ModelSource& source) : table_(source.config()) {
  const DType act = activation_dtype(stream.kind());
  memory_ = Buffer(stream, static_cast<std::size_t>(table_.size()) * size_of(act));
  weights_ = Tensor(memory_.data(), act, {table_.size()});
  stream.zero(weights_);
  std::vector<float> values;
  std::vector<bfloat16> rounded;
  for (const Param& param : table_.params()) {
    for (std::int64_t first = 0; first < param.count(); first += kPieceElements) {
      const std::int64_t count = std::min(kPieceElements, param.count() - first);
      values.resize(static_cast<std::size_t>(count));
      source.read(spec_of(param), values, first);
      const Tensor to = weights_.rows(param.offset + first, param.offset + first + count);
      if (act == DType::f32) {
        copy_now(stream, to.data(), values.data(), to.bytes());
      } else {
        rounded.resize(values.size());
        std::transform(values.begin(), values.end(), rounded.begin(), [](float x) { return bfloat16(x); });
        copy_now(stream, to.data(), rounded.data(), to.bytes());
      }
    }
  }
}

ForwardPass::ForwardPass(Stream& stream, const LoadedModel& loaded, const Setting& setting, std::int64_t sink_tokens)
    : stream_(stream), loaded_(loaded), setting_(setting), sink_tokens_(sink_tokens) {
  const ModelConfig& c = setting.model;
  check_supported(
      {.model = c,
       .pass = {.rows = 1, .tokens = 1, .path = setting.path, .backward = false, .measure = sink_tokens > 0},
       .kind = stream.kind()});
  if (sink_tokens == 0) return;
  const auto lay_out = [&](Arena& arena) {
    for (const MeasuredSum& sum : kMeasuredSums)
      measured_.*sum.on_device = arena.allocate("sum", DType::f64, {c.num_hidden_layers, c.num_attention_heads});
  };
  Arena measure;
  lay_out(measure);
  measured_memory_ = Buffer(stream, measure.used());
  Arena arena(measured_memory_.data(), measured_memory_.bytes());
  lay_out(arena);
  measured_.sink_tokens = sink_tokens;
  for (const MeasuredSum& sum : kMeasuredSums) stream.zero(measured_.*sum.on_device);
}

ForwardPass::Measured ForwardPass::measured() {
  SSA_CHECK(sink_tokens_ > 0, "this forward pass collects no attention statistics");
  Measured measured;
  for (const MeasuredSum& sum : kMeasuredSums) {
    const Tensor& from = measured_.*sum.on_device;
    std::vector<double>& to = measured.*sum.on_host;
    to.resize(static_cast<std::size_t>(from.count()));
    copy_now(stream_, to.data(), from.data(), from.bytes());
  }
  return measured;
}

void ForwardPass::prepare_shape(std::int64_t rows, std::int64_t tokens, bool document_mask) {
  const ModelConfig& config = setting_.model;
  if (!model_.acts.layers.empty() && model_.shape.rows == rows && model_.shape.tokens == tokens &&
      model_.shape.document_mask == document_mask)
    return;
  const PassShape shape{.rows = rows,
                        .tokens = tokens,
                        .path = setting_.path,
                        .selection = setting_.selection,
                        .backward = false,
                        .document_mask = document_mask,
                        .measure = sink_tokens_ > 0};
  check_supported({.model = config, .pass = shape, .kind = stream_.kind()});
  Arena measure;
  lay_out_forward(measure, config, shape, stream_.kind());
  if (measure.used() > memory_.bytes()) {
    model_ = {};  // its tensors are in the memory that is freed here, also if the larger one cannot be allocated
    memory_ = Buffer();
    memory_ = Buffer(stream_, measure.used());
  }
  Arena arena(memory_.data(), memory_.bytes());
  const ForwardTensors tensors = lay_out_forward(arena, config, shape, stream_.kind());
  batch_ = tensors.batch;
  sums_ = tensors.sums;
  losses_ = tensors.losses;
  stream_.reserve_scratch(pass_scratch_bytes(config, shape, stream_.kind()));
  model_ = bind_llama(config, shape, bind_params(loaded_.table(), config, loaded_.weights()), tensors.activations);
  upload_rotary_table(stream_, model_);
}

void ForwardPass::upload(const RowBatch& batch) {
  const std::int64_t rows = model_.shape.rows, tokens = model_.shape.tokens;
  const auto count = static_cast<std::size_t>(rows * tokens);
  std::vector<std::int32_t> ids(count, 0), targets(count, kIgnoredLabel), positions(count),
      streams(static_cast<std::size_t>(rows), setting_.sparse() ? 0 : 1);
  for (std::size_t i = 0; i < count; ++i)
    positions[i] = static_cast<std::int32_t>(i % static_cast<std::size_t>(tokens));
  for (std::size_t row = 0; row < batch.ids.size(); ++row) {
    const auto at = static_cast<std::ptrdiff_t>(row * static_cast<std::size_t>(tokens));
    for (const std::int32_t id : batch.ids[row])
      SSA_CHECK(0 <= id && id < setting_.model.vocab_size, "token id ", id, ", expected one below vocab_size ",
                setting_.model.vocab_size);
    std::ranges::copy(batch.ids[row], ids.begin() + at);
    std::ranges::copy(batch.targets[row], targets.begin() + at);
    if (!batch.positions.empty()) std::ranges::copy(batch.positions[row], positions.begin() + at);
  }
  stream_.copy(batch_.ids.data(), ids.data(), batch_.ids.bytes());
  stream_.copy(batch_.targets.data(), targets.data(), batch_.targets.bytes());
  stream_.copy(batch_.positions.data(), positions.data(), batch_.positions.bytes());
  stream_.copy(batch_.full_stream.data(), streams.data(), batch_.full_stream.bytes());
  stream_.synchronize();
}

std::vector<std::vector<float>> ForwardPass::losses(const RowBatch& batch) {
  std::size_t longest = 1;
  for (const auto& row : batch.ids) longest = std::max(longest, row.size());
  prepare_shape(static_cast<std::int64_t>(batch.ids.size()), static_cast<std::int64_t>(longest));
  upload(batch);
  stream_.zero(sums_.ce);
  stream_.zero(sums_.alignment);
  evaluate(stream_, model_, batch_, sums_, measured_, losses_);
  std::vector<float> host(batch.ids.size() * longest);
  copy_now(stream_, host.data(), losses_.data(), losses_.bytes());
  std::vector<std::vector<float>> result;
  for (std::size_t row = 0; row < batch.ids.size(); ++row) {
    const auto begin = host.begin() + static_cast<std::ptrdiff_t>(row * longest);
    result.emplace_back(begin, begin + static_cast<std::ptrdiff_t>(batch.ids[row].size()));
  }
  return result;
}

EvalSums ForwardPass::dataset_loss(Comm& comm, const RowLoader& loader, std::int64_t rows,
                                   const std::function<void(std::int64_t batch)>& on_batch) {
  prepare_shape(rows, loader.max_length(), loader.document_mask());
  BatchStaging staging(stream_, rows, loader.max_length());
  return evaluate_rows(stream_, comm, model_, batch_, sums_, staging, loader, on_batch);
}

std::vector<std::int32_t> ForwardPass::largest(std::int64_t row, std::int64_t first, std::int64_t last) {
  const std::int64_t tokens = model_.shape.tokens, V = setting_.model.vocab_size;
  const Tensor& logits = model_.acts.logits;
  const auto wide = static_cast<std::size_t>(logits.dim(1));
  std::vector<std::int32_t> ids;
  std::vector<float> values;
  std::vector<bfloat16> rounded;
  for (std::int64_t begin = first; begin < last; begin += logits.dim(0)) {
    const std::int64_t count = std::min(logits.dim(0), last - begin);
    const Tensor hidden = model_.acts.final_norm.rows(row * tokens + begin, row * tokens + begin + count);
    const Tensor out = logits.rows(0, count);
    matmul(stream_, {.out = out, .a = hidden, .b = model_.weights.lm_head, .transpose_b = true});
    const std::size_t size = static_cast<std::size_t>(count) * wide;
    if (out.dtype() == DType::f32) {
      values.resize(size);
      copy_now(stream_, values.data(), out.data(), out.bytes());
    } else {
      rounded.resize(size);
      copy_now(stream_, rounded.data(), out.data(), out.bytes());
    }
    for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i)
      ids.push_back(out.dtype() == DType::f32 ? arg_max(values.data() + i * wide, V)
                                              : arg_max(rounded.data() + i * wide, V));
  }
  return ids;
}

}  // namespace ssa::eval
