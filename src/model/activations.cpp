#include "ssa/model/activations.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ssa/runtime/padded_columns.h"

namespace ssa {
namespace {

/// The dimensions that shapes are made of, as in kernels/common/dispatch.h.
struct Dims {
  std::int64_t B, T, M, H, F, HQ, HK, D, N;
  std::int64_t slots;  ///< S', selected blocks per token

  Dims(const ModelConfig& c, const PassShape& shape)
      : B(shape.rows),
        T(shape.tokens),
        M(B * T),
        H(c.hidden_size),
        F(c.intermediate_size),
        HQ(c.num_attention_heads),
        HK(c.num_key_value_heads),
        D(c.head_dim),
        N((T + c.block_size - 1) / c.block_size),
        slots(selected_slots(c.block_size, c.block_counts, shape.selection)) {}
};

using ShapeOf = Shape (*)(const Dims&);
constexpr ShapeOf kHidden = [](const Dims& d) -> Shape { return {d.M, d.H}; };
constexpr ShapeOf kPerToken = [](const Dims& d) -> Shape { return {d.M}; };
constexpr ShapeOf kQueries = [](const Dims& d) -> Shape { return {d.B, d.T, d.HQ, d.D}; };
constexpr ShapeOf kKeys = [](const Dims& d) -> Shape { return {d.B, d.T, d.HK, d.D}; };
constexpr ShapeOf kBlockMeans = [](const Dims& d) -> Shape { return {d.B, d.N, d.HK, d.D}; };
constexpr ShapeOf kPerHead = [](const Dims& d) -> Shape { return {d.B, d.T, d.HQ}; };
constexpr ShapeOf kGates = [](const Dims& d) -> Shape { return {d.B, d.T, d.HQ, 3}; };
constexpr ShapeOf kIndices = [](const Dims& d) -> Shape { return {d.B, d.T, d.HK, d.slots}; };
constexpr ShapeOf kAttention = [](const Dims& d) -> Shape { return {d.M, d.HQ * d.D}; };
constexpr ShapeOf kGateUp = [](const Dims& d) -> Shape { return {d.M, 2 * d.F}; };
constexpr ShapeOf kMlp = [](const Dims& d) -> Shape { return {d.M, d.F}; };

struct LayerTensor {
  const char* name;  ///< in the memory plan
  Tensor LayerActivations::*activation;
  Lifetime lifetime;
  bool Branches::*branch;  ///< which needs it; null = every path
  std::optional<DType> dtype;
  ShapeOf shape;
};

using L = LayerActivations;
using Br = Branches;
constexpr auto kKept = Lifetime::kept_per_layer;
constexpr auto kSelective = Lifetime::recomputed_selective;
constexpr auto kFull = Lifetime::recomputed_full;
constexpr bool Branches::*kAlways = nullptr;
constexpr std::optional<DType> kAct = std::nullopt, kF32 = DType::f32, kI32 = DType::i32;

/// `selective` recomputes only what is cheap: no matrix product and no attention.
constexpr LayerTensor kLayerTensors[] = {
    {"layer input", &L::x, kKept, kAlways, kAct, kHidden},
    {"norm outputs", &L::input_norm, kSelective, kAlways, kAct, kHidden},
    {"rstd", &L::input_rstd, kFull, kAlways, kF32, kPerToken},
    {"q", &L::q, kFull, kAlways, kAct, kQueries},
    {"k", &L::k, kFull, kAlways, kAct, kKeys},
    {"v", &L::v, kFull, kAlways, kAct, kKeys},
    {"gates", &L::gates, kFull, kAlways, kF32, kGates},
    {"full attention", &L::full, kFull, &Br::full, kAct, kQueries},
    {"full attention lse", &L::full_lse, kFull, &Br::full, kF32, kPerHead},
    {"block means of k", &L::k_mean, kFull, &Br::selected, kAct, kBlockMeans},
    {"selected blocks", &L::indices, kFull, &Br::selected, kI32, kIndices},
    {"sparse attention", &L::sparse, kFull, &Br::selected, kAct, kQueries},
    {"sparse attention lse", &L::sparse_lse, kFull, &Br::selected, kF32, kPerHead},
    {"block means of v", &L::v_mean, kFull, &Br::compressed, kAct, kBlockMeans},
    {"compressed attention", &L::compressed, kFull, &Br::compressed, kAct, kQueries},
    {"compressed attention lse", &L::compressed_lse, kFull, &Br::compressed, kF32, kPerHead},
    {"window attention", &L::window, kFull, &Br::window, kAct, kQueries},
    {"window attention lse", &L::window_lse, kFull, &Br::window, kF32, kPerHead},
    {"gated attention", &L::attention, kSelective, kAlways, kAct, kAttention},
    {"layer middle", &L::mid, kFull, kAlways, kAct, kHidden},
    {"post-attention norm outputs", &L::post_norm, kSelective, kAlways, kAct, kHidden},
    {"post-attention rstd", &L::post_rstd, kFull, kAlways, kF32, kPerToken},
    {"gate and up", &L::gate_up, kFull, kAlways, kAct, kGateUp},
    {"swiglu", &L::swiglu, kSelective, kAlways, kAct, kMlp},
};

using Fp8Matrices = std::vector<std::pair<Shape, Fp8Blocks>>;

/// Memory for `count` times the largest of some matrices; absent if there are none.
Fp8Buffer allocate_fp8(Arena& arena, const std::string& name, const Fp8Matrices& matrices, std::int64_t count = 1) {
  if (matrices.empty()) return {};
  std::int64_t values = 0, scales = 0;
  for (const auto& [matrix, blocks] : matrices) {
    values = std::max(values, fp8_values_shape(matrix[0], matrix[1]).count());
    scales = std::max(scales, fp8_scales_shape(matrix[0], matrix[1], blocks).count());
  }
  return {.values = arena.allocate("fp8 " + name, DType::u8, {count * values}),
          .scales = arena.allocate("fp8 scales of " + name, DType::f32, {count * scales})};
}

/// The length of rows that products in FP8 write, too, if `in_fp8`.
std::int64_t row_length(std::int64_t columns, bool in_fp8) {
  return in_fp8 ? fp8_padded(columns) : padded_columns(columns);
}

/// What a linear layer reads, and where it is kept in FP8 instead.
struct LinearInput {
  LinearLayer which;
  const char* name;  ///< in the memory plan
  Tensor LayerActivations::*x;
  Fp8Matrix LayerActivations::*x_t;
};
constexpr LinearInput kLinearInputs[] = {
    {LinearLayer::qkvg_proj, "norm outputs^T", &L::input_norm, &L::input_norm_t},
    {LinearLayer::o_proj, "gated attention^T", &L::attention, &L::attention_t},
    {LinearLayer::gate_up_proj, "post-attention norm outputs^T", &L::post_norm, &L::post_norm_t},
    {LinearLayer::down_proj, "swiglu^T", &L::swiglu, &L::swiglu_t}};

/// Whether layer i keeps the transposed input of this linear layer in FP8.
bool keeps_fp8(const PassShape& shape, std::int64_t i, const LinearInput& input) {
  return shape.backward && shape.fp8.has(i, input.which) && is_kept(lifetime_of(input.x), shape.checkpointing);
}

bool is_key_value(Tensor LayerActivations::*activation) {
  return activation == &L::k || activation == &L::v || activation == &L::k_mean || activation == &L::v_mean;
}

}  // namespace

Branches computed_branches(const PassShape& shape, const ModelConfig& config) {
  Branches branches = branches_of(shape.path, config);
  if (shape.measure) branches.full = branches.selected = true;
  return branches;
}

std::int64_t logits_chunk_for(const ModelConfig& config, std::int64_t tokens, DeviceKind kind) {
  const std::int64_t budget = kind == DeviceKind::cuda ? std::int64_t{2} << 30 : std::int64_t{64} << 20;
  const std::int64_t token_bytes = config.vocab_size * static_cast<std::int64_t>(size_of(activation_dtype(kind)));
  std::int64_t chunk = std::max(budget / token_bytes, kFp8Alignment);
  const std::int64_t multiple = chunk > 256 ? 256 : kFp8Alignment;  // whole tiles for the products
  chunk = chunk / multiple * multiple;
  return std::min(chunk, tokens);
}

MicroBatch allocate_batch(Arena& arena, const PassShape& shape) {
  const auto by_token = [&](const char* name) { return arena.allocate(name, DType::i32, {shape.rows, shape.tokens}); };
  MicroBatch batch{.ids = by_token("token ids"),
                   .targets = by_token("targets"),
                   .positions = by_token("positions"),
                   .full_stream = arena.allocate("streams", DType::i32, {shape.rows})};
  if (shape.document_mask) batch.documents = {.begin = by_token("document begins"), .end = by_token("document ends")};
  return batch;
}

Lifetime lifetime_of(Tensor LayerActivations::*activation) {
  const auto row = std::find_if(std::begin(kLayerTensors), std::end(kLayerTensors),
                                [&](const LayerTensor& t) { return t.activation == activation; });
  SSA_CHECK(row != std::end(kLayerTensors), "a layer activation is missing in the table of activations.cpp");
  return row->lifetime;
}

/// Where the final norm writes FP8, it writes the inputs of all chunks.
LinearCrossEntropyFp8 lay_out_fp8_head(Arena& arena, const ModelConfig& c, std::int64_t tokens, std::int64_t chunk) {
  const std::int64_t H = c.hidden_size, V = c.vocab_size;
  const std::int64_t inputs = norm_writes_fp8(c) ? (tokens + chunk - 1) / chunk : 1;
  const auto allocate = [&](const std::string& name, std::int64_t rows, std::int64_t columns, Fp8Blocks blocks,
                            std::int64_t count = 1) {
    return allocate_fp8(arena, "lm_head " + name, {{{rows, columns}, blocks}}, count);
  };
  return {.hidden = allocate("x", chunk, H, Fp8Blocks::row, inputs),
          .hidden_t = allocate("x^T", H, chunk, Fp8Blocks::square, inputs),
          .weight = allocate("w", V, H, Fp8Blocks::square),
          .weight_t = allocate("w^T", H, V, Fp8Blocks::square),
          .d_logits = allocate("d_logits", chunk, V, Fp8Blocks::row),
          .d_logits_t = allocate("d_logits^T", V, chunk, Fp8Blocks::row)};
}

/// Both ways of every weight that is multiplied in FP8.
std::vector<Fp8LayerWeights> lay_out_fp8_weights(Arena& arena, const ModelConfig& c, const Fp8Layers& fp8) {
  std::vector<Fp8LayerWeights> weights(static_cast<std::size_t>(c.num_hidden_layers));
  const auto allocate = [&](const char* name, std::int64_t rows, std::int64_t columns) {
    return allocate_fp8(arena, name, {{{rows, columns}, Fp8Blocks::square}}).matrix(rows, columns, Fp8Blocks::square);
  };
  for (std::int64_t i = 0; i < c.num_hidden_layers; ++i)
    for (const LinearLayer which : kLinearLayers) {
      if (!fp8.has(i, which)) continue;
      const auto [inputs, outputs] = widths_of(which, c);
      weights[static_cast<std::size_t>(i)][static_cast<std::size_t>(which)] = {
          .w = allocate("weights", outputs, inputs), .w_t = allocate("weights^T", inputs, outputs)};
    }
  return weights;
}

/// Each buffer of the linear layers takes the largest matrix of any of them.
Fp8Operands lay_out_fp8(Arena& arena, const ModelConfig& c, const PassShape& shape, std::int64_t chunk) {
  const std::int64_t M = shape.rows * shape.tokens;
  const auto allocate = [&](const char* name, const Fp8Matrices& matrices) {
    return allocate_fp8(arena, name, matrices);
  };
  Fp8Matrices x, d_y, d_y_t, d_gate_up, d_gate_up_t;
  for (const LinearLayer which : kLinearLayers) {
    if (!shape.fp8.has_in_any_layer(which)) continue;
    const auto [inputs, outputs] = widths_of(which, c);
    x.insert(x.end(), {{{M, inputs}, Fp8Blocks::row}, {{inputs, M}, Fp8Blocks::row}});
    const bool from_swiglu = which == LinearLayer::gate_up_proj && swiglu_writes_fp8(c);
    (from_swiglu ? d_gate_up : d_y).push_back({{M, outputs}, Fp8Blocks::row});
    (from_swiglu ? d_gate_up_t : d_y_t).push_back({{outputs, M}, Fp8Blocks::square});
  }
  return {
      .weights = shape.fp8_weights_given ? std::vector<Fp8LayerWeights>() : lay_out_fp8_weights(arena, c, shape.fp8),
      .x = allocate("x", x),
      .d_y = allocate("d_y", d_y),
      .d_y_t = allocate("d_y^T", d_y_t),
      .d_gate_up = allocate("d_gate_up", d_gate_up),
      .d_gate_up_t = allocate("d_gate_up^T", d_gate_up_t),
      .lm_head = shape.fp8.has_lm_head() ? lay_out_fp8_head(arena, c, M, chunk) : LinearCrossEntropyFp8{}};
}

Activations lay_out_activations(Arena& arena, const ModelConfig& c, const PassShape& shape, DeviceKind kind,
                                const KvPlacement* placement) {
  SSA_CHECK(!shape.measure || !shape.backward, "a pass that measures both attentions has no backward");
  const DType act = activation_dtype(kind), f32 = DType::f32;
  const Dims d(c, shape);
  const Branches branches = computed_branches(shape, c);

  Activations a;
  Tensor shared[std::size(kLayerTensors)];
  for (std::int64_t i = 0; i < c.num_hidden_layers; ++i) {
    LayerActivations& layer = a.layers.emplace_back();
    for (std::size_t j = 0; j < std::size(kLayerTensors); ++j) {
      const LayerTensor& t = kLayerTensors[j];
      if (t.branch && !(branches.*t.branch)) continue;
      if (placement && is_key_value(t.activation)) continue;
      const auto allocate = [&] { return arena.allocate(t.name, t.dtype.value_or(act), t.shape(d)); };
      const bool in_fp8 =
          std::any_of(std::begin(kLinearInputs), std::end(kLinearInputs),
                      [&](const LinearInput& input) { return input.x == t.activation && keeps_fp8(shape, i, input); });
      if (shape.backward && is_kept(t.lifetime, shape.checkpointing) && !in_fp8) {
        layer.*t.activation = allocate();
      } else {
        if (!shared[j]) shared[j] = allocate();
        layer.*t.activation = shared[j];
      }
    }
    for (const LinearInput& input : kLinearInputs) {
      if (!keeps_fp8(shape, i, input)) continue;
      const Tensor& x = layer.*input.x;
      layer.*input.x_t = allocate_fp8(arena, input.name, {{{x.dim(1), x.dim(0)}, Fp8Blocks::row}})
                             .matrix(x.dim(1), x.dim(0), Fp8Blocks::row);
    }
    if (placement) {
      const KeyValues& placed = placement->layers[static_cast<std::size_t>(i)];
      layer.k = placed.k;
      layer.v = placed.v;
      layer.k_mean = placed.k_mean;
      layer.v_mean = placed.v_mean;
    }
  }
  const Shape hidden = kHidden(d), queries = kQueries(d), keys = kKeys(d), per_head = kPerHead(d);
  a.final_x = arena.allocate("model output", act, hidden);
  a.final_norm = arena.allocate("model output, normalized", act, hidden);
  a.final_rstd = arena.allocate("model output rstd", f32, kPerToken(d));
  a.qkvg = arena.allocate(
      "q, k, v, gate projection", act,
      {d.M, row_length(c.qkvg_width(), shape.backward && shape.fp8.has_in_any_layer(LinearLayer::qkvg_proj))});
  a.residual_delta = arena.allocate("residual delta", act, hidden);
  const std::int64_t chunk = shape.logits_chunk ? shape.logits_chunk : logits_chunk_for(c, d.M, kind);
  a.logits =
      arena.allocate("logits chunk", act, {chunk, row_length(c.vocab_size, shape.backward && shape.fp8.has_lm_head())});
  a.cos_sin = placement ? placement->cos_sin : arena.allocate("rotary table", f32, {d.T, d.D / 2, 2});
  a.discarded = arena.allocate("discarded alignment", DType::f64, {1});
  if (!shape.backward) return a;
  if (shape.fp8.any()) a.fp8 = lay_out_fp8(arena, c, shape, chunk);

  a.d_x = arena.allocate("d_x", act, hidden);
  a.d_norm = arena.allocate("d_norm", act, hidden);
  if (!shape.fp8.has_in_every_layer(LinearLayer::qkvg_proj) || !rope_writes_fp8(c))
    a.d_qkvg = arena.allocate("d_qkvg", act, {d.M, padded_columns(c.qkvg_width())});
  a.d_attention = arena.allocate("d_attention", act, kAttention(d));
  if (!shape.fp8.has_in_every_layer(LinearLayer::gate_up_proj) || !swiglu_writes_fp8(c))
    a.d_gate_up = arena.allocate("d_gate_up", act, kGateUp(d));
  a.d_swiglu = arena.allocate("d_swiglu", act, kMlp(d));
  a.d_q = arena.allocate("d_q", f32, queries);
  a.d_k = arena.allocate("d_k", f32, keys);
  a.d_v = arena.allocate("d_v", f32, keys);
  a.d_gates = arena.allocate("d_gates", f32, kGates(d));
  const auto branch_gradient = [&](bool computed, const std::string& name, Tensor& gradient, Tensor& delta) {
    if (!computed) return;
    gradient = arena.allocate("d_" + name, act, queries);
    delta = arena.allocate("delta_" + name, f32, per_head);
  };
  branch_gradient(branches.full, "full", a.d_full, a.delta_full);
  branch_gradient(branches.selected, "sparse", a.d_sparse, a.delta_sparse);
  branch_gradient(branches.compressed, "compressed", a.d_compressed, a.delta_compressed);
  branch_gradient(branches.window, "window", a.d_window, a.delta_window);
  if (branches.compressed) {
    a.d_k_mean = arena.allocate("d_k_mean", f32, kBlockMeans(d));
    a.d_v_mean = arena.allocate("d_v_mean", f32, kBlockMeans(d));
  }
  return a;
}

}  // namespace ssa
