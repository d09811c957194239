#include "ssa/model/llama.h"

#include <cmath>

#include "kernels/attention/compressed/compressed_attention.h"
#include "kernels/attention/dense/causal_attention.h"
#include "kernels/attention/gates/gate_alignment.h"
#include "kernels/attention/gates/gated_sum.h"
#include "kernels/attention/sparse/sparse_attention.h"
#include "kernels/attention/stats/attention_divergence.h"
#include "kernels/attention/stats/attention_stats.h"
#include "kernels/embedding/embedding.h"
#include "kernels/linear_cross_entropy/linear_cross_entropy.h"
#include "kernels/matmul/matmul.h"
#include "kernels/qkv_rope/qkv_rope.h"
#include "kernels/rmsnorm/rmsnorm.h"
#include "kernels/swiglu/swiglu.h"
#include "ssa/model/rope.h"

namespace ssa {
namespace {

float attention_scale(const ModelConfig& config) { return 1.0f / std::sqrt(static_cast<float>(config.head_dim)); }

Tensor flat_tokens(const Tensor& ids) { return ids.view({ids.count()}); }

/// [M, HQ D] as [B, T, HQ, D].
Tensor by_head(const Tensor& attention, const Tensor& q) { return attention.view(q.shape()); }

/// `tensor` if the branch is computed, else an absent one.
Tensor given(bool branch, const Tensor& tensor) { return branch ? tensor : Tensor(); }

/// The gated output of the attention from its branches.
void gate_forward(Stream& s, const Llama& m, const LayerActivations& b, const MicroBatch& batch, double alignment_scale,
                  const Tensor& alignment) {
  const Branches path = branches_of(m.shape.path, m.config);
  const Tensor out = by_head(b.attention, b.q);
  if (path.aligned)
    gate_alignment_forward(s, {.out = out,
                               .alignment = alignment,
                               .gates = b.gates,
                               .full = b.full,
                               .sparse = b.sparse,
                               .full_stream = batch.full_stream,
                               .alignment_scale = alignment_scale});
  else
    gated_sum_forward(s, {.out = out,
                          .gates = b.gates,
                          .selected = path.full ? b.full : b.sparse,
                          .compressed = given(path.compressed, b.compressed),
                          .window = given(path.window, b.window)});
}

/// One block. Its input is b.x, or, for `previous` given, the previous block's b.mid + acts.residual_delta, which becomes b.x.
/// Leaves b.mid and b.swiglu: the block's output is b.mid + down_proj(b.swiglu), a product that recomputing spares.
void forward_layer(Stream& s, const Llama& m, std::int64_t i, const LayerActivations* previous, const MicroBatch& batch,
                   double alignment_scale, const Tensor& alignment) {
  const ModelConfig& c = m.config;
  const LayerParams& w = m.weights.layers[i];
  const LayerActivations& b = m.acts.layers[i];
  const Activations& a = m.acts;
  const Branches branches = computed_branches(m.shape, c);
  const float scale = attention_scale(c), eps = static_cast<float>(c.rms_norm_eps);

  if (previous)
    rmsnorm_forward(s, {.out = b.input_norm,
                        .rstd = b.input_rstd,
                        .residual = b.x,
                        .x = previous->mid,
                        .delta = a.residual_delta,
                        .weight = w.input_norm,
                        .eps = eps});
  else
    rmsnorm_forward(s, {.out = b.input_norm, .rstd = b.input_rstd, .x = b.x, .weight = w.input_norm, .eps = eps});
  matmul(s, {.out = a.qkvg, .a = b.input_norm, .b = w.qkvg_proj, .transpose_b = true});
  qkv_rope_forward(s, {.q = b.q,
                       .k = b.k,
                       .v = b.v,
                       .gates = b.gates,
                       .k_mean = given(branches.selected || branches.compressed, b.k_mean),
                       .v_mean = given(branches.compressed, b.v_mean),
                       .qkvg = a.qkvg,
                       .positions = batch.positions,
                       .cos_sin = a.cos_sin,
                       .block_size = c.block_size});
  if (branches.full)
    causal_attention_forward(s, {.out = b.full, .lse = b.full_lse, .q = b.q, .k = b.k, .v = b.v, .scale = scale});
  if (branches.selected) {
    select_blocks(s, {.indices = b.indices,
                      .q = b.q,
                      .k_mean = b.k_mean,
                      .scale = scale,
                      .block_size = c.block_size,
                      .block_counts = c.block_counts,
                      .mode = m.selection});
    sparse_attention_forward(s, {.out = b.sparse,
                                 .lse = b.sparse_lse,
                                 .q = b.q,
                                 .k = b.k,
                                 .v = b.v,
                                 .indices = b.indices,
                                 .scale = scale,
                                 .block_size = c.block_size});
  }
  if (branches.compressed)
    compressed_attention_forward(s, {.out = b.compressed,
                                     .lse = b.compressed_lse,
                                     .q = b.q,
                                     .k_mean = b.k_mean,
                                     .v_mean = b.v_mean,
                                     .scale = scale,
                                     .block_size = c.block_size});
  if (branches.window)
    causal_attention_forward(
        s,
        {.out = b.window, .lse = b.window_lse, .q = b.q, .k = b.k, .v = b.v, .scale = scale, .window = c.window_size});
  gate_forward(s, m, b, batch, alignment_scale, alignment);
  matmul(s, {.out = a.residual_delta, .a = b.attention, .b = w.o_proj, .transpose_b = true});

  rmsnorm_forward(s, {.out = b.post_norm,
                      .rstd = b.post_rstd,
                      .residual = b.mid,
                      .x = b.x,
                      .delta = a.residual_delta,
                      .weight = w.post_attention_norm,
                      .eps = eps});
  matmul(s, {.out = b.gate_up, .a = b.post_norm, .b = w.gate_up_proj, .transpose_b = true});
  swiglu_forward(s, {.out = b.swiglu, .gate_up = b.gate_up});
}

/// Adds what block i's attention did to the sums that are wanted.
void measure_attention(Stream& s, const Llama& m, std::int64_t i, const PassSums& sums) {
  const LayerActivations& b = m.acts.layers[i];
  const Branches branches = computed_branches(m.shape, m.config);
  if (!branches.full || !branches.selected) return;
  const auto of_layer = [&](const Tensor& sum) { return sum.rows(i, i + 1).view({m.config.num_attention_heads}); };
  if (sums.selected_mass)
    attention_stats(s, {.selected_mass = of_layer(sums.selected_mass),
                        .entropy = of_layer(sums.entropy),
                        .q = b.q,
                        .k = b.k,
                        .lse = b.full_lse,
                        .indices = b.indices,
                        .scale = attention_scale(m.config),
                        .block_size = m.config.block_size});
  if (sums.distance)
    attention_divergence(s, {.distance = of_layer(sums.distance),
                             .norm = of_layer(sums.norm),
                             .sink = of_layer(sums.sink),
                             .full = b.full,
                             .sparse = b.sparse,
                             .q = b.q,
                             .k = b.k,
                             .lse = b.full_lse,
                             .scale = attention_scale(m.config),
                             .sink_tokens = sums.sink_tokens});
}

/// What the policy left out of block i, computed again from what it kept; b.swiglu comes with swiglu_backward.
void recompute_layer(Stream& s, const Llama& m, std::int64_t i, const MicroBatch& batch) {
  const LayerParams& w = m.weights.layers[i];
  const LayerActivations& b = m.acts.layers[i];
  const float eps = static_cast<float>(m.config.rms_norm_eps);
  switch (m.shape.checkpointing) {
    case GradientCheckpointing::none: break;
    case GradientCheckpointing::selective:
      rmsnorm_forward(s, {.out = b.input_norm, .rstd = b.input_rstd, .x = b.x, .weight = w.input_norm, .eps = eps});
      gate_forward(s, m, b, batch, 0.0, m.acts.discarded);
      rmsnorm_forward(
          s, {.out = b.post_norm, .rstd = b.post_rstd, .x = b.mid, .weight = w.post_attention_norm, .eps = eps});
      break;
    case GradientCheckpointing::full: forward_layer(s, m, i, nullptr, batch, 0.0, m.acts.discarded); break;
  }
}

/// Gradients of the attention's branches, gates, and of q, k, v (and their block means) through every branch.
void attention_backward(Stream& s, const Llama& m, const LayerActivations& b, const MicroBatch& batch,
                        const PassScales& scales) {
  const ModelConfig& c = m.config;
  const Activations& a = m.acts;
  const Branches branches = branches_of(m.shape.path, c);
  const float scale = attention_scale(c);
  const Tensor d_out = by_head(a.d_attention, b.q);

  if (branches.aligned)
    gate_alignment_backward(s, {.d_gates = a.d_gates,
                                .d_full = a.d_full,
                                .delta_full = a.delta_full,
                                .d_sparse = a.d_sparse,
                                .delta_sparse = a.delta_sparse,
                                .d_out = d_out,
                                .gates = b.gates,
                                .full = b.full,
                                .sparse = b.sparse,
                                .full_stream = batch.full_stream,
                                .gradient_scale = scales.alignment_gradient});
  else
    gated_sum_backward(s, {.d_gates = a.d_gates,
                           .d_selected = branches.full ? a.d_full : a.d_sparse,
                           .delta_selected = branches.full ? a.delta_full : a.delta_sparse,
                           .d_compressed = a.d_compressed,
                           .delta_compressed = a.delta_compressed,
                           .d_window = a.d_window,
                           .delta_window = a.delta_window,
                           .d_out = d_out,
                           .gates = b.gates,
                           .selected = branches.full ? b.full : b.sparse,
                           .compressed = b.compressed,
                           .window = b.window});

  // The first branch overwrites d_q, d_k and d_v, the others add.
  if (branches.selected)
    sparse_attention_backward(s, {.d_q = a.d_q,
                                  .d_k = a.d_k,
                                  .d_v = a.d_v,
                                  .d_out = a.d_sparse,
                                  .delta = a.delta_sparse,
                                  .lse = b.sparse_lse,
                                  .q = b.q,
                                  .k = b.k,
                                  .v = b.v,
                                  .indices = b.indices,
                                  .scale = scale,
                                  .block_size = c.block_size});
  if (branches.full)
    causal_attention_backward(s, {.d_q = a.d_q,
                                  .d_k = a.d_k,
                                  .d_v = a.d_v,
                                  .d_out = a.d_full,
                                  .delta = a.delta_full,
                                  .lse = b.full_lse,
                                  .q = b.q,
                                  .k = b.k,
                                  .v = b.v,
                                  .scale = scale,
                                  .accumulate = branches.selected});
  if (branches.compressed)
    compressed_attention_backward(s, {.d_q = a.d_q,
                                      .d_k_mean = a.d_k_mean,
                                      .d_v_mean = a.d_v_mean,
                                      .d_out = a.d_compressed,
                                      .delta = a.delta_compressed,
                                      .lse = b.compressed_lse,
                                      .q = b.q,
                                      .k_mean = b.k_mean,
                                      .v_mean = b.v_mean,
                                      .scale = scale,
                                      .block_size = c.block_size,
                                      .accumulate = true});
  if (branches.window)
    causal_attention_backward(s, {.d_q = a.d_q,
                                  .d_k = a.d_k,
                                  .d_v = a.d_v,
                                  .d_out = a.d_window,
                                  .delta = a.delta_window,
                                  .lse = b.window_lse,
                                  .q = b.q,
                                  .k = b.k,
                                  .v = b.v,
                                  .scale = scale,
                                  .window = c.window_size,
                                  .accumulate = true});
}

/// a.d_x comes in as the gradient of the block's output and leaves as that of its input. The gradients of matrices are
/// added to with `accumulate`, else overwritten; those of norms are always added to.
void backward_layer(Stream& s, const Llama& m, std::int64_t i, const MicroBatch& batch, const PassScales& scales,
                    bool accumulate) {
  const LayerParams& w = m.weights.layers[i];
  const LayerParams& g = m.gradients.layers[i];
  const LayerActivations& b = m.acts.layers[i];
  const Activations& a = m.acts;

  const bool swiglu_again = m.shape.checkpointing == GradientCheckpointing::selective;
  matmul(s, {.out = a.d_swiglu, .a = a.d_x, .b = w.down_proj});
  swiglu_backward(
      s,
      {.d_gate_up = a.d_gate_up, .out = swiglu_again ? b.swiglu : Tensor(), .d_out = a.d_swiglu, .gate_up = b.gate_up});
  matmul(s, {.out = g.down_proj, .a = a.d_x, .b = b.swiglu, .transpose_a = true, .accumulate = accumulate});
  matmul(s, {.out = a.d_norm, .a = a.d_gate_up, .b = w.gate_up_proj});
  matmul(s, {.out = g.gate_up_proj, .a = a.d_gate_up, .b = b.post_norm, .transpose_a = true, .accumulate = accumulate});
  rmsnorm_backward(s, {.d_residual = a.d_x,
                       .d_weight = g.post_attention_norm,
                       .d_out = a.d_norm,
                       .residual = b.mid,
                       .rstd = b.post_rstd,
                       .weight = w.post_attention_norm});

  matmul(s, {.out = a.d_attention, .a = a.d_x, .b = w.o_proj});
  matmul(s, {.out = g.o_proj, .a = a.d_x, .b = b.attention, .transpose_a = true, .accumulate = accumulate});
  attention_backward(s, m, b, batch, scales);
  qkv_rope_backward(s, {.d_qkvg = a.d_qkvg,
                        .d_q = a.d_q,
                        .d_k = a.d_k,
                        .d_v = a.d_v,
                        .d_gates = a.d_gates,
                        .d_k_mean = a.d_k_mean,
                        .d_v_mean = a.d_v_mean,
                        .gates = b.gates,
                        .positions = batch.positions,
                        .cos_sin = a.cos_sin,
                        .block_size = m.config.block_size});
  matmul(s, {.out = a.d_norm, .a = a.d_qkvg, .b = w.qkvg_proj});
  matmul(s, {.out = g.qkvg_proj, .a = a.d_qkvg, .b = b.input_norm, .transpose_a = true, .accumulate = accumulate});
  rmsnorm_backward(s, {.d_residual = a.d_x,
                       .d_weight = g.input_norm,
                       .d_out = a.d_norm,
                       .residual = b.x,
                       .rstd = b.input_rstd,
                       .weight = w.input_norm});
}

}  // namespace

Llama with_path(const Llama& model, AttentionPath path) {
  const Branches has = computed_branches(model.shape, model.config), wanted = branches_of(path, model.config);
  SSA_CHECK((has.full || !wanted.full) && (has.selected || !wanted.selected) &&
                (has.compressed || !wanted.compressed) && (has.window || !wanted.window),
            "model: its activations lack a branch of the wanted attention path");
  Llama other = model;
  other.shape.path = path;
  return other;
}

void prepare(Stream& stream, const Llama& model) {
  const std::vector<float> table = rope_table(model.config, model.shape.tokens);
  stream.copy(model.acts.cos_sin.data(), table.data(), table.size() * sizeof(float));
  stream.synchronize();
}

void forward(Stream& s, const Llama& m, const MicroBatch& batch, const PassScales& scales, const PassSums& sums) {
  const Activations& a = m.acts;
  embedding_forward(s, {.out = a.layers[0].x, .ids = flat_tokens(batch.ids), .weight = m.weights.embedding});
  for (std::int64_t i = 0; i < m.config.num_hidden_layers; ++i) {
    const LayerActivations& b = a.layers[i];
    forward_layer(s, m, i, i > 0 ? &a.layers[i - 1] : nullptr, batch, scales.alignment, sums.alignment);
    matmul(s, {.out = a.residual_delta, .a = b.swiglu, .b = m.weights.layers[i].down_proj, .transpose_b = true});
    measure_attention(s, m, i, sums);
  }
  rmsnorm_forward(s, {.out = a.final_norm,
                      .rstd = a.final_rstd,
                      .residual = a.final_x,
                      .x = a.layers.back().mid,
                      .delta = a.residual_delta,
                      .weight = m.weights.final_norm,
                      .eps = static_cast<float>(m.config.rms_norm_eps)});
}

void evaluate(Stream& s, const Llama& m, const MicroBatch& batch, const PassSums& sums, Tensor losses) {
  forward(s, m, batch, {}, sums);
  linear_cross_entropy(s, {.loss_sum = sums.ce,
                           .losses = losses,
                           .logits = m.acts.logits,
                           .hidden = m.acts.final_norm,
                           .weight = m.weights.lm_head,
                           .targets = flat_tokens(batch.targets)});
}

void forward_backward(Stream& s, const Llama& m, const MicroBatch& batch, const PassScales& scales,
                      const PassSums& sums, Gradients gradients) {
  const Activations& a = m.acts;
  const bool accumulate = gradients == Gradients::add;
  if (!accumulate)
    for (const Tensor& gradient : m.added_gradients) s.zero(gradient);
  forward(s, m, batch, scales, sums);
  linear_cross_entropy(s, {.loss_sum = sums.ce,
                           .d_hidden = a.d_norm,
                           .d_weight = m.gradients.lm_head,
                           .logits = a.logits,
                           .hidden = a.final_norm,
                           .weight = m.weights.lm_head,
                           .targets = flat_tokens(batch.targets),
                           .gradient_scale = scales.ce_gradient,
                           .accumulate = accumulate});
  s.zero(a.d_x);
  rmsnorm_backward(s, {.d_residual = a.d_x,
                       .d_weight = m.gradients.final_norm,
                       .d_out = a.d_norm,
                       .residual = a.final_x,
                       .rstd = a.final_rstd,
                       .weight = m.weights.final_norm});
  for (std::int64_t i = m.config.num_hidden_layers - 1; i >= 0; --i) {
    recompute_layer(s, m, i, batch);
    backward_layer(s, m, i, batch, scales, accumulate);
  }
  // A tied embedding already holds the head's gradient.
  embedding_backward(s, {.d_weight = m.gradients.embedding, .d_out = a.d_x, .ids = flat_tokens(batch.ids)});
}

}  // namespace ssa
