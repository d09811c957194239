#include <algorithm>
#include <map>

#include "ssa/model/llama.h"

namespace ssa {
namespace {

using Keep = GradientCheckpointing;

}  // namespace

Branches computed_branches(const PassShape& shape, const ModelConfig& config) {
  Branches branches = branches_of(shape.path, config);
  if (shape.measure) branches.full = branches.selected = true;
  return branches;
}

std::int64_t logits_chunk_for(const ModelConfig& config, std::int64_t tokens, DeviceKind kind) {
  const std::int64_t budget = kind == DeviceKind::cuda ? std::int64_t{2} << 30 : std::int64_t{64} << 20;
  const std::int64_t row_bytes = config.vocab_size * (kind == DeviceKind::cuda ? 2 : 4);
  std::int64_t chunk = std::max<std::int64_t>(budget / row_bytes, 1);
  if (chunk > 256) chunk = chunk / 256 * 256;  // whole tiles for the matrix products
  return std::min(chunk, tokens);
}

Activations lay_out_activations(Arena& arena, const ModelConfig& c, const PassShape& shape, BlockSelection selection,
                                DeviceKind kind) {
  const DType act = kind == DeviceKind::cuda ? DType::bf16 : DType::f32, f32 = DType::f32;
  const std::int64_t B = shape.rows, T = shape.tokens, M = B * T, H = c.hidden_size, F = c.intermediate_size;
  const std::int64_t HQ = c.num_attention_heads, HK = c.num_key_value_heads, D = c.head_dim;
  const std::int64_t N = (T + c.block_size - 1) / c.block_size;
  const std::int64_t S = selected_slots(c.block_size, c.block_counts, selection);
  SSA_CHECK(!shape.measure || !shape.backward, "a pass that measures both attentions has no backward");
  const Branches branches = computed_branches(shape, c);
  const Keep policy = shape.backward ? shape.checkpointing : Keep::full;

  // A tensor that the policy computes again exists once, for all blocks.
  std::map<std::string, Tensor> shared;
  const auto layer_tensor = [&](const char* name, Keep computed_again_from, DType dtype, Shape dims) {
    if (policy < computed_again_from) return arena.allocate(name, dtype, dims);
    auto [it, is_new] = shared.try_emplace(name);
    if (is_new) it->second = arena.allocate(name, dtype, dims);
    return it->second;
  };

  Activations a;
  for (std::int64_t i = 0; i < c.num_hidden_layers; ++i) {
    LayerActivations b;
    b.x = shape.backward ? arena.allocate("layer input", act, {M, H})
                         : layer_tensor("layer input", Keep::none, act, {M, H});
    b.input_norm = layer_tensor("norm outputs", Keep::selective, act, {M, H});
    b.input_rstd = layer_tensor("rstd", Keep::full, f32, {M});
    b.q = layer_tensor("q", Keep::full, act, {B, T, HQ, D});
    b.k = layer_tensor("k", Keep::full, act, {B, T, HK, D});
    b.v = layer_tensor("v", Keep::full, act, {B, T, HK, D});
    b.gates = layer_tensor("gates", Keep::full, f32, {B, T, HQ, 3});
    if (branches.full) {
      b.full = layer_tensor("full attention", Keep::full, act, {B, T, HQ, D});
      b.full_lse = layer_tensor("full attention lse", Keep::full, f32, {B, T, HQ});
    }
    if (branches.selected) {
      b.k_mean = layer_tensor("block means of k", Keep::full, act, {B, N, HK, D});
      b.indices = layer_tensor("selected blocks", Keep::full, DType::i32, {B, T, HK, S});
      b.sparse = layer_tensor("sparse attention", Keep::full, act, {B, T, HQ, D});
      b.sparse_lse = layer_tensor("sparse attention lse", Keep::full, f32, {B, T, HQ});
    }
    if (branches.compressed) {
      b.v_mean = layer_tensor("block means of v", Keep::full, act, {B, N, HK, D});
      b.compressed = layer_tensor("compressed attention", Keep::full, act, {B, T, HQ, D});
      b.compressed_lse = layer_tensor("compressed attention lse", Keep::full, f32, {B, T, HQ});
    }
    if (branches.window) {
      b.window = layer_tensor("window attention", Keep::full, act, {B, T, HQ, D});
      b.window_lse = layer_tensor("window attention lse", Keep::full, f32, {B, T, HQ});
    }
    b.attention = layer_tensor("gated attention", Keep::selective, act, {M, HQ * D});
    b.mid = layer_tensor("layer middle", Keep::full, act, {M, H});
    b.post_norm = layer_tensor("post-attention norm outputs", Keep::selective, act, {M, H});
    b.post_rstd = layer_tensor("post-attention rstd", Keep::full, f32, {M});
    b.gate_up = layer_tensor("gate and up", Keep::full, act, {M, 2 * F});
    b.swiglu = layer_tensor("swiglu", Keep::selective, act, {M, F});
    a.layers.push_back(b);
  }
  a.final_x = arena.allocate("model output", act, {M, H});
  a.final_norm = arena.allocate("model output, normalized", act, {M, H});
  a.final_rstd = arena.allocate("model output rstd", f32, {M});
  a.qkvg = arena.allocate("q, k, v, gate projection", act, {M, c.qkvg_width()});
  a.residual_delta = arena.allocate("residual delta", act, {M, H});
  const std::int64_t chunk = shape.logits_chunk ? shape.logits_chunk : logits_chunk_for(c, M, kind);
  a.logits = arena.allocate("logits chunk", act, {chunk, c.vocab_size});
  a.cos_sin = arena.allocate("rotary table", f32, {T, D / 2, 2});
  a.discarded = arena.allocate("discarded alignment", DType::f64, {1});
  if (!shape.backward) return a;

  a.d_x = arena.allocate("d_x", act, {M, H});
  a.d_norm = arena.allocate("d_norm", act, {M, H});
  a.d_qkvg = arena.allocate("d_qkvg", act, {M, c.qkvg_width()});
  a.d_attention = arena.allocate("d_attention", act, {M, HQ * D});
  a.d_gate_up = arena.allocate("d_gate_up", act, {M, 2 * F});
  a.d_swiglu = arena.allocate("d_swiglu", act, {M, F});
  a.d_q = arena.allocate("d_q", f32, {B, T, HQ, D});
  a.d_k = arena.allocate("d_k", f32, {B, T, HK, D});
  a.d_v = arena.allocate("d_v", f32, {B, T, HK, D});
  a.d_gates = arena.allocate("d_gates", f32, {B, T, HQ, 3});
  const auto branch_gradient = [&](bool wanted, const char* name, Tensor& d, Tensor& delta) {
    if (!wanted) return;
    d = arena.allocate(std::string("d_") + name, act, {B, T, HQ, D});
    delta = arena.allocate(std::string("delta_") + name, f32, {B, T, HQ});
  };
  branch_gradient(branches.full, "full", a.d_full, a.delta_full);
  branch_gradient(branches.selected, "sparse", a.d_sparse, a.delta_sparse);
  branch_gradient(branches.compressed, "compressed", a.d_compressed, a.delta_compressed);
  branch_gradient(branches.window, "window", a.d_window, a.delta_window);
  if (branches.compressed) {
    a.d_k_mean = arena.allocate("d_k_mean", f32, {B, N, HK, D});
    a.d_v_mean = arena.allocate("d_v_mean", f32, {B, N, HK, D});
  }
  return a;
}

}  // namespace ssa
