#include "ssa/model/decoder.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/attention/decode/append_qkv.h"
#include "kernels/attention/decode/append_select.h"
#include "kernels/attention/decode/decode_attention.h"
#include "kernels/attention/gates/gated_sum.h"
#include "kernels/embedding/embedding.h"
#include "kernels/fused_linear/fused_linear.h"
#include "src/model/linear.h"
#include "ssa/model/rope.h"

namespace ssa {
namespace {

/// Logits of up to this many sequences are written to host memory by their product. For more, a copy of the whole is
/// faster.
constexpr std::int64_t kHostLogitsRows = 16;

/// The pass of a prompt of `tokens` tokens. It ends before the logits; the layout has at least one row of them.
PassShape prompt_pass(const DecoderShape& shape, std::int64_t tokens) {
  return {.rows = 1,
          .tokens = tokens,
          .path = shape.path,
          .selection = shape.selection,
          .backward = false,
          .logits_chunk = 1};
}

/// Tokens [0, tokens) of sequence `row` of a cache tensor [B, C, HK, D], as [1, tokens, HK, D].
Tensor beginning(const Tensor& cache, std::int64_t row, std::int64_t tokens) {
  if (!cache) return {};
  const Shape& s = cache.shape();
  return cache.view({s[0] * s[1], s[2], s[3]}).rows(row * s[1], row * s[1] + tokens).view({1, tokens, s[2], s[3]});
}

}  // namespace

Decoder::Decoder(Stream& stream, const ModelConfig& config, const ModelParams& weights, const DecoderShape& shape)
    : stream_(stream), config_(config), weights_(weights), shape_(shape) {
  SSA_CHECK(shape.rows > 0 && 0 < shape.prompt && shape.prompt <= shape.capacity, "decoder: ", shape.rows,
            " rows, prompts of up to ", shape.prompt, " tokens, capacity ", shape.capacity,
            ", expected at least 1 of each and prompts that fit");
  SSA_CHECK(!branches_of(shape.path, config).aligned, "decoder: path ssa has two outputs, expected a path with one");
  lengths_.assign(static_cast<std::size_t>(shape.rows), 0);

  host_tokens_ = Buffer(stream, static_cast<std::size_t>(2 * shape.rows) * sizeof(std::int32_t), Buffer::Place::host);
  host_logits_ =
      Buffer(stream, static_cast<std::size_t>(shape.rows * config.vocab_size) * sizeof(float), Buffer::Place::host);
  Arena measure;
  lay_out(measure);
  memory_ = Buffer(stream, measure.used());
  Arena arena(memory_.data(), memory_.bytes());
  lay_out(arena);

  const PassShape longest = prompt_pass(shape, shape.prompt);
  const KvPlacement placement = prompt_placement(0, shape.prompt);
  Arena measure_prompt;
  lay_out_activations(measure_prompt, config, longest, stream.kind(), &placement);
  prompt_memory_ = Buffer(stream, measure_prompt.used());
  Stream measured_step = Stream::measuring(stream.kind());
  run_step(measured_step);
  stream.reserve_scratch(std::max(pass_scratch_bytes(config, longest, stream.kind()), measured_step.scratch_bytes()));

  const std::vector<float> table = rope_table(config, shape.capacity);
  std::vector<std::int32_t> positions(static_cast<std::size_t>(shape.prompt));
  std::iota(positions.begin(), positions.end(), 0);
  stream.copy(cos_sin_.data(), table.data(), cos_sin_.bytes());
  stream.copy(prompt_positions_.data(), positions.data(), prompt_positions_.bytes());
  stream.synchronize();
}

void Decoder::lay_out(Arena& arena) {
  const ModelConfig& c = config_;
  const DType act = activation_dtype(stream_.kind()), f32 = DType::f32, i32 = DType::i32;
  const std::int64_t B = shape_.rows, C = shape_.capacity, N = (C + c.block_size - 1) / c.block_size;
  const std::int64_t HQ = c.num_attention_heads, HK = c.num_key_value_heads, D = c.head_dim;
  const std::int64_t H = c.hidden_size, F = c.intermediate_size;
  const Branches branches = branches_of(shape_.path, c);

  cache_.clear();
  for (std::int64_t i = 0; i < c.num_hidden_layers; ++i) {
    KeyValues layer;
    layer.k = arena.allocate("cached keys", act, {B, C, HK, D});
    layer.v = arena.allocate("cached values", act, {B, C, HK, D});
    if (branches.selected) layer.k_mean = arena.allocate("cached block means of k", act, {B, N, HK, D});
    if (branches.compressed) layer.v_mean = arena.allocate("cached block means of v", act, {B, N, HK, D});
    cache_.push_back(layer);
  }
  prompt_ids_ = arena.allocate("prompt ids", i32, {shape_.prompt});
  prompt_positions_ = arena.allocate("prompt positions", i32, {shape_.prompt});
  cos_sin_ = arena.allocate("rotary table", f32, {C, D / 2, 2});

  StepActivations& s = step_;
  s.tokens = arena.allocate("token ids and positions", i32, {2, B});
  s.ids = s.tokens.rows(0, 1).view({B});
  s.positions = s.tokens.rows(1, 2).view({B, 1});
  s.x = arena.allocate("residual stream", act, {B, H});
  s.qkvg = arena.allocate("q, k, v, gate projection", act, {B, c.qkvg_width()});
  s.q = arena.allocate("q", act, {B, 1, HQ, D});
  s.gates = arena.allocate("gates", f32, {B, 1, HQ, 3});
  if (branches.selected)
    s.indices = arena.allocate("selected blocks", i32,
                               {B, 1, HK, selected_slots(c.block_size, c.block_counts, shape_.selection)});
  if (branches.compressed || branches.window) s.selected = arena.allocate("attention branch", act, {B, 1, HQ, D});
  if (branches.compressed) s.compressed = arena.allocate("compressed attention", act, {B, 1, HQ, D});
  if (branches.window) s.window = arena.allocate("window attention", act, {B, 1, HQ, D});
  s.attention = arena.allocate("gated attention", act, {B, 1, HQ, D});
  s.swiglu = arena.allocate("swiglu", act, {B, F});
  // Few logits are written to host memory while their product reads its weights; a copy would come after it.
  s.logits = B <= kHostLogitsRows ? Tensor(host_logits_.data(), f32, {B, c.vocab_size})
                                  : arena.allocate("logits", f32, {B, c.vocab_size});
}

/// The prompt's forward writes its keys and values into the cache, where the steps read them.
KvPlacement Decoder::prompt_placement(std::int64_t row, std::int64_t tokens) const {
  const std::int64_t blocks = (tokens + config_.block_size - 1) / config_.block_size;
  KvPlacement placement{.layers = {}, .cos_sin = cos_sin_};
  for (const KeyValues& layer : cache_)
    placement.layers.push_back({.k = beginning(layer.k, row, tokens),
                                .v = beginning(layer.v, row, tokens),
                                .k_mean = beginning(layer.k_mean, row, blocks),
                                .v_mean = beginning(layer.v_mean, row, blocks)});
  return placement;
}

/// `logits` are the first rows of step_.logits, whose copy is queued.
std::span<const float> Decoder::synchronized_logits(const Tensor& logits) {
  stream_.synchronize();
  return {static_cast<const float*>(host_logits_.data()), static_cast<std::size_t>(logits.count())};
}

void Decoder::copy_logits(const Tensor& logits) {
  if (logits.data() != host_logits_.data()) stream_.copy(host_logits_.data(), logits.data(), logits.bytes());
}

std::span<const float> Decoder::prefill(std::int64_t row, std::span<const std::int32_t> ids) {
  const auto tokens = static_cast<std::int64_t>(ids.size());
  SSA_CHECK(0 <= row && row < shape_.rows, "decoder: row ", row, " of ", shape_.rows);
  SSA_CHECK(0 < tokens && tokens <= shape_.prompt, "decoder: a prompt of ", tokens, " tokens, expected 1 to ",
            shape_.prompt);
  stream_.copy(prompt_ids_.data(), ids.data(), ids.size_bytes());

  const PassShape pass = prompt_pass(shape_, tokens);
  const KvPlacement placement = prompt_placement(row, tokens);
  Arena arena(prompt_memory_.data(), prompt_memory_.bytes());
  const Llama model =
      bind_llama(config_, pass, weights_, lay_out_activations(arena, config_, pass, stream_.kind(), &placement));
  const MicroBatch batch{.ids = prompt_ids_.rows(0, tokens).view({1, tokens}),
                         .targets = {},
                         .positions = prompt_positions_.rows(0, tokens).view({1, tokens}),
                         .full_stream = {}};
  forward(stream_, model, batch, {}, {});
  lengths_[static_cast<std::size_t>(row)] = tokens;
  const Tensor logits = step_.logits.rows(0, 1);
  linear(stream_, {.y = logits, .x = model.acts.final_norm.rows(tokens - 1, tokens), .w = weights_.lm_head});
  copy_logits(logits);
  return synchronized_logits(logits);
}

/// step_.x comes in as the layer's input and leaves as its output.
void Decoder::step_layer(Stream& s, const LayerParams& w, const KeyValues& cache) const {
  const ModelConfig& c = config_;
  const StepActivations& a = step_;
  const Branches branches = branches_of(shape_.path, c);
  const float scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim)), eps = static_cast<float>(c.rms_norm_eps);

  fused_linear(s, {.out = a.qkvg,
                   .x = a.x,
                   .norm_weight = w.input_norm,
                   .eps = eps,
                   .w = w.qkvg_proj,
                   .read_later = {{cache.k_mean}}});
  // Attention reads little. Meanwhile weights of the products after it are loaded into L2: of o_proj, and the first
  // rows of gate and up.
  const std::int64_t F = c.intermediate_size;
  const AppendQkv append{.q = a.q,
                         .gates = a.gates,
                         .k_cache = cache.k,
                         .v_cache = cache.v,
                         .k_mean = cache.k_mean,
                         .v_mean = cache.v_mean,
                         .qkvg = a.qkvg,
                         .positions = a.positions,
                         .cos_sin = cos_sin_,
                         .block_size = c.block_size,
                         .read_later = {{w.o_proj, w.gate_up_proj.rows(0, F / 4), w.gate_up_proj.rows(F, F + F / 4)}}};
  if (branches.selected)
    append_select(s, {.append = append,
                      .indices = a.indices,
                      .scale = scale,
                      .block_counts = c.block_counts,
                      .mode = shape_.selection});
  else
    append_qkv(s, append);
  const bool one_branch = !a.selected;
  decode_attention(s, {.out = one_branch ? a.attention : a.selected,
                       .q = a.q,
                       .k = cache.k,
                       .v = cache.v,
                       .positions = a.positions,
                       .gates = one_branch ? a.gates : Tensor(),
                       .indices = a.indices,
                       .scale = scale,
                       .block_size = branches.selected ? c.block_size : 0});
  if (branches.compressed)
    decode_attention(s, {.out = a.compressed,
                         .q = a.q,
                         .k = cache.k_mean,
                         .v = cache.v_mean,
                         .positions = a.positions,
                         .scale = scale,
                         .tokens_per_key = c.block_size});
  if (branches.window)
    decode_attention(s, {.out = a.window,
                         .q = a.q,
                         .k = cache.k,
                         .v = cache.v,
                         .positions = a.positions,
                         .scale = scale,
                         .window = c.window_size});
  if (!one_branch)
    gated_sum_forward(
        s,
        {.out = a.attention, .gates = a.gates, .selected = a.selected, .compressed = a.compressed, .window = a.window});
  fused_linear(s, {.out = a.x, .x = a.attention.view({shape_.rows, c.q_width()}), .w = w.o_proj, .residual = a.x});

  fused_linear(s, {.out = a.swiglu,
                   .x = a.x,
                   .norm_weight = w.post_attention_norm,
                   .eps = eps,
                   .w = w.gate_up_proj,
                   .swiglu = true});
  fused_linear(s, {.out = a.x, .x = a.swiglu, .w = w.down_proj, .residual = a.x});
}

void Decoder::run_step(Stream& s) const {
  const StepActivations& a = step_;
  embedding_forward(s, {.out = a.x, .ids = a.ids, .weight = weights_.embedding});
  for (std::size_t i = 0; i < cache_.size(); ++i) step_layer(s, weights_.layers[i], cache_[i]);
  fused_linear(s, {.out = a.logits,
                   .x = a.x,
                   .norm_weight = weights_.final_norm,
                   .eps = static_cast<float>(config_.rms_norm_eps),
                   .w = weights_.lm_head});
}

/// The step with its copies from and to host memory.
void Decoder::queue_step() {
  const StepActivations& a = step_;
  stream_.copy(a.tokens.data(), host_tokens_.data(), a.tokens.bytes());
  run_step(stream_);
  copy_logits(a.logits);
}

std::span<const float> Decoder::step(std::span<const std::int32_t> ids) {
  const auto rows = static_cast<std::size_t>(shape_.rows);
  SSA_CHECK(ids.size() == rows, "decoder: ", ids.size(), " tokens for ", rows, " rows");
  // A sequence without a token computes values at its next position, which are overwritten before anything reads them.
  const std::span tokens(static_cast<std::int32_t*>(host_tokens_.data()), rows), positions(tokens.data() + rows, rows);
  for (std::size_t row = 0; row < rows; ++row) {
    const bool active = ids[row] >= 0;
    SSA_CHECK(!active || lengths_[row] > 0, "decoder: row ", row, " has no prompt");
    SSA_CHECK(!active || lengths_[row] < shape_.capacity, "decoder: row ", row, " is full with ", lengths_[row],
              " tokens");
    tokens[row] = active ? ids[row] : 0;
    positions[row] = static_cast<std::int32_t>(std::min(lengths_[row], shape_.capacity - 1));
    if (active) ++lengths_[row];
  }
  if (stepped_ && !recorded_step_) recorded_step_ = stream_.record_work([this] { queue_step(); });
  if (recorded_step_)
    stream_.replay(*recorded_step_);
  else
    queue_step();
  stepped_ = true;
  return synchronized_logits(step_.logits);
}

}  // namespace ssa
