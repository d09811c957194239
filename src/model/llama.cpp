#include "ssa/model/llama.h"

#include <algorithm>
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
#include "kernels/qkv_rope/qkv_rope.h"
#include "kernels/rmsnorm/rmsnorm.h"
#include "kernels/swiglu/swiglu.h"
#include "src/model/linear.h"
#include "ssa/model/rope.h"
#include "ssa/runtime/profiler_range.h"

namespace ssa {
namespace {

using L = LayerActivations;

float attention_scale(const ModelConfig& config) { return 1.0f / std::sqrt(static_cast<float>(config.head_dim)); }

Tensor flat_tokens(const Tensor& ids) { return ids.view({ids.count()}); }

/// [M, HQ D] as [B, T, HQ, D].
Tensor by_head(const Tensor& attention, const Tensor& q) { return attention.view(q.shape()); }

/// The tensor of a branch, absent when the branch is not computed.
Tensor of_branch(bool computed, const Tensor& tensor) { return computed ? tensor : Tensor(); }

/// Whether the backward needs this activation recomputed.
bool is_recomputed(const Llama& m, Tensor LayerActivations::*activation) {
  return !is_kept(lifetime_of(activation), m.shape.checkpointing);
}

/// Absent where the linear layer does not compute in FP8.
LinearFp8 fp8_of(const Llama& m, std::int64_t layer, LinearLayer which) {
  if (!m.shape.fp8.has(layer, which)) return {};
  const Fp8LayerWeights& weights = m.acts.fp8.weights[static_cast<std::size_t>(layer)];
  return {.operands = &m.acts.fp8, .weight = weights[static_cast<std::size_t>(which)]};
}

Tensor weight_of(const LayerParams& layer, LinearLayer which) {
  switch (which) {
    case LinearLayer::qkvg_proj: return layer.qkvg_proj;
    case LinearLayer::o_proj: return layer.o_proj;
    case LinearLayer::gate_up_proj: return layer.gate_up_proj;
    case LinearLayer::down_proj: return layer.down_proj;
  }
  fail("unknown linear layer");
}

/// Rounds the weights of layer i that are multiplied in FP8.
void round_weights(Stream& s, const Llama& m, std::int64_t i) {
  for (const LinearLayer which : kLinearLayers)
    if (const LinearFp8 fp8 = fp8_of(m, i, which))
      quantize_fp8(s,
                   {.plain = fp8.weight.w, .transposed = fp8.weight.w_t, .x = weight_of(m.weights.layers[i], which)});
}

/// What a norm writes for the linear layer that reads it. In FP8 it writes the transpose, too, where it is kept, and
/// then nothing else.
struct NormOutput {
  Tensor out;
  Fp8Matrix fp8, fp8_t;
};
NormOutput norm_output(const Llama& m, std::int64_t layer, LinearLayer which, const Tensor& out,
                       const Fp8Matrix& kept) {
  if (!m.shape.fp8.has(layer, which) || !norm_writes_fp8(m.config)) return {.out = out, .fp8 = {}, .fp8_t = {}};
  const Fp8Matrix fp8 = fp8_x(m.acts.fp8, m.shape.rows * m.shape.tokens, m.config.hidden_size);
  return {.out = kept ? Tensor() : out, .fp8 = fp8, .fp8_t = kept};
}

/// The gradient of the residual stream in FP8, plain and transposed, which the backward of a norm writes for o_proj or
/// down_proj of layer i; absent where that is not in FP8.
Fp8Gradient residual_gradient(const Llama& m, std::int64_t i, LinearLayer which) {
  if (!m.shape.fp8.has(i, which)) return {};
  return fp8_gradient(m.acts.fp8.d_y, m.acts.fp8.d_y_t, m.shape.rows * m.shape.tokens, m.config.hidden_size);
}

/// Whether layer i's SwiGLU writes what its down_proj reads, in FP8 and nowhere else.
bool swiglu_in_fp8(const Llama& m, std::int64_t i) {
  return m.shape.fp8.has(i, LinearLayer::down_proj) && swiglu_writes_fp8(m.config);
}

/// Whether layer i's gates write what its o_proj reads, in FP8 and nowhere else.
bool gates_in_fp8(const Llama& m, std::int64_t i) {
  return m.shape.fp8.has(i, LinearLayer::o_proj) && m.acts.layers[i].attention_t && gates_write_fp8(m.config);
}

/// The gated output of layer i's attention from its branches.
void gate_forward(Stream& s, const Llama& m, std::int64_t i, const MicroBatch& batch, double alignment_scale,
                  const Tensor& alignment) {
  const LayerActivations& l = m.acts.layers[i];
  const Branches branches = branches_of(m.shape.path, m.config);
  const bool in_fp8 = gates_in_fp8(m, i);
  const Tensor out = in_fp8 ? Tensor() : by_head(l.attention, l.q);
  const Fp8Matrix fp8 = in_fp8 ? fp8_x(m.acts.fp8, l.attention.dim(0), l.attention.dim(1)) : Fp8Matrix();
  const Fp8Matrix fp8_t = in_fp8 ? l.attention_t : Fp8Matrix();
  if (branches.aligned)
    gate_alignment_forward(s, {.out = out,
                               .fp8 = fp8,
                               .fp8_t = fp8_t,
                               .alignment = alignment,
                               .gates = l.gates,
                               .full = l.full,
                               .sparse = l.sparse,
                               .full_stream = batch.full_stream,
                               .alignment_scale = alignment_scale});
  else
    gated_sum_forward(s, {.out = out,
                          .fp8 = fp8,
                          .fp8_t = fp8_t,
                          .gates = l.gates,
                          .selected = branches.full ? l.full : l.sparse,
                          .compressed = of_branch(branches.compressed, l.compressed),
                          .window = of_branch(branches.window, l.window)});
}

/// Whether a layer runs in the forward pass, or in the backward pass to recompute activations that were not kept.
enum class Run { forward, recompute };

/// One layer. Its input is l.x, or, in a forward run of a later layer, mid + residual_delta of the layer before, which
/// becomes l.x. Its output is l.mid + residual_delta. A recompute run skips every op whose output was kept.
void forward_layer(Stream& s, const Llama& m, std::int64_t i, const MicroBatch& batch, double alignment_scale,
                   const Tensor& alignment, Run run, const PassHooks& hooks = {}) {
  const ModelConfig& c = m.config;
  const LayerParams& w = m.weights.layers[i];
  const L& l = m.acts.layers[i];
  const Activations& a = m.acts;
  const Branches branches = computed_branches(m.shape, c);
  const float scale = attention_scale(c), eps = static_cast<float>(c.rms_norm_eps);
  const auto after = [&](LinearLayer which, const Tensor& out, const Tensor& x) {
    if (hooks.after_product)
      hooks.after_product({.layer = i,
                           .which = which,
                           .kind = LinearProduct::Kind::forward,
                           .out = out,
                           .x = x,
                           .w = weight_of(w, which)});
  };
  const auto runs = [&](Tensor L::*output) { return run == Run::forward || is_recomputed(m, output); };

  // Where q or gate_up is computed, the norm before it is, too.
  const NormOutput input_norm = norm_output(m, i, LinearLayer::qkvg_proj, l.input_norm, l.input_norm_t);
  const NormOutput post_norm = norm_output(m, i, LinearLayer::gate_up_proj, l.post_norm, l.post_norm_t);

  // 1) Residual add of the layer before, and norm
  if (run == Run::forward && i > 0)
    rmsnorm_forward(s, {.out = input_norm.out,
                        .rstd = l.input_rstd,
                        .residual = l.x,
                        .x = a.layers[i - 1].mid,
                        .delta = a.residual_delta,
                        .weight = w.input_norm,
                        .eps = eps,
                        .fp8 = input_norm.fp8,
                        .fp8_t = input_norm.fp8_t});
  else if (runs(&L::input_norm))
    rmsnorm_forward(s, {.out = input_norm.out,
                        .rstd = l.input_rstd,
                        .x = l.x,
                        .weight = w.input_norm,
                        .eps = eps,
                        .fp8 = input_norm.fp8,
                        .fp8_t = input_norm.fp8_t});

  // 2) q, k, v and gates: projection, rotary embedding, block means
  if (runs(&L::q)) {
    linear(s, {.y = a.qkvg,
               .x = l.input_norm,
               .w = w.qkvg_proj,
               .fp8 = fp8_of(m, i, LinearLayer::qkvg_proj),
               .x_in_fp8 = static_cast<bool>(input_norm.fp8),
               .keep_x_t = input_norm.fp8_t ? Fp8Matrix() : l.input_norm_t});
    after(LinearLayer::qkvg_proj, a.qkvg, l.input_norm);
    qkv_rope_forward(s, {.q = l.q,
                         .k = l.k,
                         .v = l.v,
                         .gates = l.gates,
                         .k_mean = of_branch(branches.selected, l.k_mean),
                         .v_mean = of_branch(branches.compressed, l.v_mean),
                         .qkvg = a.qkvg,
                         .positions = batch.positions,
                         .cos_sin = a.cos_sin,
                         .block_size = c.block_size});
  }

  // 3) Attention branches
  SSA_CHECK(static_cast<bool>(batch.documents) == m.shape.document_mask, "model: a micro-batch ",
            batch.documents ? "with" : "without", " documents, expected one ",
            m.shape.document_mask ? "with" : "without");
  if (branches.full && runs(&L::full))
    causal_attention_forward(
        s, {.out = l.full, .lse = l.full_lse, .q = l.q, .k = l.k, .v = l.v, .documents = batch.mask(), .scale = scale});
  if (branches.selected && runs(&L::sparse)) {
    select_blocks(s, {.indices = l.indices,
                      .q = l.q,
                      .k_mean = l.k_mean,
                      .documents = batch.mask(),
                      .scale = scale,
                      .block_size = c.block_size,
                      .block_counts = c.block_counts,
                      .mode = m.shape.selection});
    sparse_attention_forward(s, {.out = l.sparse,
                                 .lse = l.sparse_lse,
                                 .q = l.q,
                                 .k = l.k,
                                 .v = l.v,
                                 .indices = l.indices,
                                 .scale = scale,
                                 .block_size = c.block_size});
  }
  if (branches.compressed && runs(&L::compressed))
    compressed_attention_forward(s, {.out = l.compressed,
                                     .lse = l.compressed_lse,
                                     .q = l.q,
                                     .k_mean = l.k_mean,
                                     .v_mean = l.v_mean,
                                     .documents = batch.mask(),
                                     .scale = scale,
                                     .block_size = c.block_size});
  if (branches.window && runs(&L::window))
    causal_attention_forward(s, {.out = l.window,
                                 .lse = l.window_lse,
                                 .q = l.q,
                                 .k = l.k,
                                 .v = l.v,
                                 .documents = batch.mask(),
                                 .scale = scale,
                                 .window = c.window_size});

  // 4) Gates, and the alignment loss
  if (runs(&L::attention)) gate_forward(s, m, i, batch, alignment_scale, alignment);

  // 5) Output projection, residual add and norm
  if (runs(&L::mid)) {
    linear(s, {.y = a.residual_delta,
               .x = l.attention,
               .w = w.o_proj,
               .fp8 = fp8_of(m, i, LinearLayer::o_proj),
               .x_in_fp8 = gates_in_fp8(m, i),
               .keep_x_t = gates_in_fp8(m, i) ? Fp8Matrix() : l.attention_t});
    after(LinearLayer::o_proj, a.residual_delta, l.attention);
    rmsnorm_forward(s, {.out = post_norm.out,
                        .rstd = l.post_rstd,
                        .residual = l.mid,
                        .x = l.x,
                        .delta = a.residual_delta,
                        .weight = w.post_attention_norm,
                        .eps = eps,
                        .fp8 = post_norm.fp8,
                        .fp8_t = post_norm.fp8_t});
  } else if (runs(&L::post_norm)) {
    rmsnorm_forward(s, {.out = post_norm.out,
                        .rstd = l.post_rstd,
                        .x = l.mid,
                        .weight = w.post_attention_norm,
                        .eps = eps,
                        .fp8 = post_norm.fp8,
                        .fp8_t = post_norm.fp8_t});
  }

  // 6) MLP. The backward's first op writes swiglu again, and nothing there needs the output.
  if (runs(&L::gate_up)) {
    linear(s, {.y = l.gate_up,
               .x = l.post_norm,
               .w = w.gate_up_proj,
               .fp8 = fp8_of(m, i, LinearLayer::gate_up_proj),
               .x_in_fp8 = static_cast<bool>(post_norm.fp8),
               .keep_x_t = post_norm.fp8_t ? Fp8Matrix() : l.post_norm_t});
    after(LinearLayer::gate_up_proj, l.gate_up, l.post_norm);
  }
  if (run == Run::recompute) return;
  const std::int64_t M = l.swiglu.dim(0), F = c.intermediate_size;
  const bool in_fp8 = swiglu_in_fp8(m, i);
  swiglu_forward(s, {.out = in_fp8 ? Tensor() : l.swiglu,
                     .fp8 = in_fp8 ? fp8_x(a.fp8, M, F) : Fp8Matrix(),
                     .fp8_t = in_fp8 ? l.swiglu_t : Fp8Matrix(),
                     .gate_up = l.gate_up});
  linear(s, {.y = a.residual_delta,
             .x = l.swiglu,
             .w = w.down_proj,
             .fp8 = fp8_of(m, i, LinearLayer::down_proj),
             .x_in_fp8 = in_fp8,
             .keep_x_t = in_fp8 ? Fp8Matrix() : l.swiglu_t});
  after(LinearLayer::down_proj, a.residual_delta, l.swiglu);
}

/// Gradients of the attention's branches, gates, and of q, k, v (and their block means) through every branch.
void attention_backward(Stream& s, const Llama& m, const LayerActivations& l, const MicroBatch& batch,
                        const PassScales& scales) {
  const ModelConfig& c = m.config;
  const Activations& a = m.acts;
  const Branches branches = branches_of(m.shape.path, c);
  const float scale = attention_scale(c);
  const Tensor d_out = by_head(a.d_attention, l.q);
  const auto aligned = [&](AlignedOutputs output) {
    return scales.aligned_outputs == AlignedOutputs::both || scales.aligned_outputs == output
               ? scales.alignment_gradient
               : 0.0f;
  };

  if (branches.aligned)
    gate_alignment_backward(s, {.d_gates = a.d_gates,
                                .d_full = a.d_full,
                                .delta_full = a.delta_full,
                                .d_sparse = a.d_sparse,
                                .delta_sparse = a.delta_sparse,
                                .d_out = d_out,
                                .gates = l.gates,
                                .full = l.full,
                                .sparse = l.sparse,
                                .full_stream = batch.full_stream,
                                .full_scale = aligned(AlignedOutputs::full),
                                .sparse_scale = aligned(AlignedOutputs::sparse)});
  else
    gated_sum_backward(s, {.d_gates = a.d_gates,
                           .d_selected = branches.full ? a.d_full : a.d_sparse,
                           .delta_selected = branches.full ? a.delta_full : a.delta_sparse,
                           .d_compressed = a.d_compressed,
                           .delta_compressed = a.delta_compressed,
                           .d_window = a.d_window,
                           .delta_window = a.delta_window,
                           .d_out = d_out,
                           .gates = l.gates,
                           .selected = branches.full ? l.full : l.sparse,
                           .compressed = l.compressed,
                           .window = l.window});

  // The first branch overwrites d_q, d_k and d_v, the others add.
  if (branches.selected)
    sparse_attention_backward(s, {.d_q = a.d_q,
                                  .d_k = a.d_k,
                                  .d_v = a.d_v,
                                  .d_out = a.d_sparse,
                                  .delta = a.delta_sparse,
                                  .lse = l.sparse_lse,
                                  .q = l.q,
                                  .k = l.k,
                                  .v = l.v,
                                  .indices = l.indices,
                                  .scale = scale,
                                  .block_size = c.block_size});
  if (branches.full)
    causal_attention_backward(s, {.d_q = a.d_q,
                                  .d_k = a.d_k,
                                  .d_v = a.d_v,
                                  .d_out = a.d_full,
                                  .delta = a.delta_full,
                                  .lse = l.full_lse,
                                  .q = l.q,
                                  .k = l.k,
                                  .v = l.v,
                                  .documents = batch.mask(),
                                  .scale = scale,
                                  .accumulate = branches.selected});
  if (branches.compressed)
    compressed_attention_backward(s, {.d_q = a.d_q,
                                      .d_k_mean = a.d_k_mean,
                                      .d_v_mean = a.d_v_mean,
                                      .d_out = a.d_compressed,
                                      .delta = a.delta_compressed,
                                      .lse = l.compressed_lse,
                                      .q = l.q,
                                      .k_mean = l.k_mean,
                                      .v_mean = l.v_mean,
                                      .documents = batch.mask(),
                                      .scale = scale,
                                      .block_size = c.block_size,
                                      .accumulate = true});
  if (branches.window)
    causal_attention_backward(s, {.d_q = a.d_q,
                                  .d_k = a.d_k,
                                  .d_v = a.d_v,
                                  .d_out = a.d_window,
                                  .delta = a.delta_window,
                                  .lse = l.window_lse,
                                  .q = l.q,
                                  .k = l.k,
                                  .v = l.v,
                                  .documents = batch.mask(),
                                  .scale = scale,
                                  .window = c.window_size,
                                  .accumulate = true});
}

/// One layer backward, in the order of forward_layer reversed. a.d_x comes in as the gradient of the layer's output and
/// leaves as the gradient of its input, each also in FP8 where a down_proj reads it. Gradients of matrices are
/// overwritten, or added to with `accumulate`; gradients of norms are always added to.
void backward_layer(Stream& s, const Llama& m, std::int64_t i, const MicroBatch& batch, const PassScales& scales,
                    bool accumulate, const PassHooks& hooks) {
  const LayerParams& w = m.weights.layers[i];
  const LayerParams& g = m.gradients.params.layers[i];
  const LayerActivations& l = m.acts.layers[i];
  const Activations& a = m.acts;

  const auto after = [&](LinearLayer which, LinearProduct::Kind kind, const Tensor& out, const Tensor& d_y,
                         const Tensor& x) {
    if (hooks.after_product)
      hooks.after_product(
          {.layer = i, .which = which, .kind = kind, .out = out, .x = x, .d_y = d_y, .w = weight_of(w, which)});
  };
  using Kind = LinearProduct::Kind;

  // 6) MLP
  const Fp8Gradient d_out = residual_gradient(m, i, LinearLayer::down_proj);
  linear_input_gradient(s, {.d_x = a.d_swiglu,
                            .d_y = a.d_x,
                            .w = w.down_proj,
                            .fp8 = fp8_of(m, i, LinearLayer::down_proj),
                            .d_y_fp8 = d_out.d_y ? &d_out : nullptr});
  after(LinearLayer::down_proj, Kind::input_gradient, a.d_swiglu, a.d_x, l.swiglu);
  const bool in_fp8 = m.shape.fp8.has(i, LinearLayer::gate_up_proj) && swiglu_writes_fp8(m.config);
  const Fp8Gradient d_gate_up =
      in_fp8 ? fp8_gradient(a.fp8.d_gate_up, a.fp8.d_gate_up_t, l.swiglu.dim(0), 2 * m.config.intermediate_size)
             : Fp8Gradient();
  swiglu_backward(s, {.d_gate_up = in_fp8 ? Tensor() : a.d_gate_up,
                      .fp8 = d_gate_up.d_y,
                      .fp8_t = d_gate_up.d_y_t,
                      .out = is_recomputed(m, &LayerActivations::swiglu) ? l.swiglu : Tensor(),
                      .d_out = a.d_swiglu,
                      .gate_up = l.gate_up});
  linear_weight_gradient(s, {.d_w = g.down_proj,
                             .d_y = a.d_x,
                             .x = l.swiglu,
                             .accumulate = accumulate,
                             .fp8 = fp8_of(m, i, LinearLayer::down_proj),
                             .d_y_fp8 = d_out.d_y ? &d_out : nullptr,
                             .x_t_fp8 = l.swiglu_t});
  after(LinearLayer::down_proj, Kind::weight_gradient, g.down_proj, a.d_x, l.swiglu);
  linear_backward(s, {.d_x = a.d_norm,
                      .d_w = g.gate_up_proj,
                      .d_y = a.d_gate_up,
                      .x = l.post_norm,
                      .w = w.gate_up_proj,
                      .accumulate = accumulate,
                      .fp8 = fp8_of(m, i, LinearLayer::gate_up_proj),
                      .d_y_fp8 = in_fp8 ? &d_gate_up : nullptr,
                      .x_t_fp8 = l.post_norm_t});
  after(LinearLayer::gate_up_proj, Kind::input_gradient, a.d_norm, a.d_gate_up, l.post_norm);
  after(LinearLayer::gate_up_proj, Kind::weight_gradient, g.gate_up_proj, a.d_gate_up, l.post_norm);

  // 5) Norm, residual add and output projection
  const Fp8Gradient d_mid = residual_gradient(m, i, LinearLayer::o_proj);
  rmsnorm_backward(s, {.d_residual = a.d_x,
                       .d_weight = g.post_attention_norm,
                       .d_out = a.d_norm,
                       .residual = l.mid,
                       .rstd = l.post_rstd,
                       .weight = w.post_attention_norm,
                       .fp8 = d_mid.d_y,
                       .fp8_t = d_mid.d_y_t});
  linear_backward(s, {.d_x = a.d_attention,
                      .d_w = g.o_proj,
                      .d_y = a.d_x,
                      .x = l.attention,
                      .w = w.o_proj,
                      .accumulate = accumulate,
                      .fp8 = fp8_of(m, i, LinearLayer::o_proj),
                      .d_y_fp8 = d_mid.d_y ? &d_mid : nullptr,
                      .x_t_fp8 = l.attention_t});
  after(LinearLayer::o_proj, Kind::input_gradient, a.d_attention, a.d_x, l.attention);
  after(LinearLayer::o_proj, Kind::weight_gradient, g.o_proj, a.d_x, l.attention);

  // 4) Gates and alignment, 3) attention branches
  attention_backward(s, m, l, batch, scales);

  // 2) q, k, v and gates
  const bool qkvg_in_fp8 = m.shape.fp8.has(i, LinearLayer::qkvg_proj) && rope_writes_fp8(m.config);
  const Fp8Gradient d_qkvg =
      qkvg_in_fp8 ? fp8_gradient(a.fp8.d_y, a.fp8.d_y_t, l.input_norm.dim(0), m.config.qkvg_width()) : Fp8Gradient();
  qkv_rope_backward(s, {.d_qkvg = qkvg_in_fp8 ? Tensor() : a.d_qkvg,
                        .fp8 = d_qkvg.d_y,
                        .fp8_t = d_qkvg.d_y_t,
                        .d_q = a.d_q,
                        .d_k = a.d_k,
                        .d_v = a.d_v,
                        .d_gates = a.d_gates,
                        .d_k_mean = a.d_k_mean,
                        .d_v_mean = a.d_v_mean,
                        .gates = l.gates,
                        .positions = batch.positions,
                        .cos_sin = a.cos_sin,
                        .block_size = m.config.block_size});
  linear_backward(s, {.d_x = a.d_norm,
                      .d_w = g.qkvg_proj,
                      .d_y = a.d_qkvg,
                      .x = l.input_norm,
                      .w = w.qkvg_proj,
                      .accumulate = accumulate,
                      .fp8 = fp8_of(m, i, LinearLayer::qkvg_proj),
                      .d_y_fp8 = qkvg_in_fp8 ? &d_qkvg : nullptr,
                      .x_t_fp8 = l.input_norm_t});
  after(LinearLayer::qkvg_proj, Kind::input_gradient, a.d_norm, a.d_qkvg, l.input_norm);
  after(LinearLayer::qkvg_proj, Kind::weight_gradient, g.qkvg_proj, a.d_qkvg, l.input_norm);

  // 1) Norm
  const Fp8Gradient d_in = i > 0 ? residual_gradient(m, i - 1, LinearLayer::down_proj) : Fp8Gradient();
  rmsnorm_backward(s, {.d_residual = a.d_x,
                       .d_weight = g.input_norm,
                       .d_out = a.d_norm,
                       .residual = l.x,
                       .rstd = l.input_rstd,
                       .weight = w.input_norm,
                       .fp8 = d_in.d_y,
                       .fp8_t = d_in.d_y_t});
}

/// Whether the final norm writes what the head reads, in FP8 and nowhere else.
bool final_norm_in_fp8(const Llama& m) { return m.shape.fp8.has_lm_head() && norm_writes_fp8(m.config); }

/// The last residual add, and the final norm; in FP8 a chunk of the head at a time.
void final_norm_forward(Stream& s, const Llama& m) {
  const Activations& a = m.acts;
  const bool in_fp8 = final_norm_in_fp8(m);
  const std::int64_t tokens = a.final_x.dim(0), chunk = in_fp8 ? std::min(a.logits.dim(0), tokens) : tokens;
  for (std::int64_t begin = 0; begin < tokens; begin += chunk) {
    const std::int64_t end = std::min(begin + chunk, tokens);
    const HeadInput fp8 =
        in_fp8 ? head_input(a.fp8.lm_head, begin / chunk, end - begin, chunk, m.config.hidden_size) : HeadInput{};
    rmsnorm_forward(s, {.out = in_fp8 ? Tensor() : a.final_norm,
                        .rstd = a.final_rstd.rows(begin, end),
                        .residual = a.final_x.rows(begin, end),
                        .x = a.layers.back().mid.rows(begin, end),
                        .delta = a.residual_delta.rows(begin, end),
                        .weight = m.weights.final_norm,
                        .eps = static_cast<float>(m.config.rms_norm_eps),
                        .fp8 = fp8.hidden,
                        .fp8_t = fp8.hidden_t});
  }
}

/// Adds the attention statistics of layer i to the sums that are given.
void measure_attention(Stream& s, const Llama& m, std::int64_t i, const MicroBatch& batch, const AttentionSums& sums) {
  const LayerActivations& l = m.acts.layers[i];
  const Branches branches = computed_branches(m.shape, m.config);
  if (!branches.full || !branches.selected) return;
  const auto of_layer = [&](const Tensor& sum) { return sum.rows(i, i + 1).view({m.config.num_attention_heads}); };
  if (sums.selected_mass)
    attention_stats(s, {.selected_mass = of_layer(sums.selected_mass),
                        .entropy = of_layer(sums.entropy),
                        .q = l.q,
                        .k = l.k,
                        .lse = l.full_lse,
                        .indices = l.indices,
                        .documents = batch.mask(),
                        .scale = attention_scale(m.config),
                        .block_size = m.config.block_size});
  if (sums.distance)
    attention_divergence(s, {.distance = of_layer(sums.distance),
                             .norm = of_layer(sums.norm),
                             .sink = of_layer(sums.sink),
                             .full = l.full,
                             .sparse = l.sparse,
                             .q = l.q,
                             .k = l.k,
                             .lse = l.full_lse,
                             .documents = batch.mask(),
                             .scale = attention_scale(m.config),
                             .sink_tokens = sums.sink_tokens});
}

}  // namespace

ModelGradients bind_gradients(const ParamTable& table, const ModelConfig& config, const Tensor& flat) {
  const std::vector<Tensor> buckets = split_by_bucket(table, flat);
  return {bind_params(table, config, buckets), added_gradients(table, config, buckets)};
}

Llama bind_llama(const ModelConfig& config, const PassShape& shape, const ModelParams& weights, const Activations& acts,
                 const ModelGradients& gradients) {
  const auto layers = static_cast<std::size_t>(config.num_hidden_layers);
  const std::size_t with_gradients = shape.backward ? layers : 0;
  SSA_CHECK(weights.layers.size() == layers && acts.layers.size() == layers, "model: weights of ",
            weights.layers.size(), " and activations of ", acts.layers.size(), " layers, expected ", layers);
  SSA_CHECK(gradients.params.layers.size() == with_gradients, "model: gradients of ", gradients.params.layers.size(),
            " layers, expected ", with_gradients);
  return {.config = config, .shape = shape, .weights = weights, .gradients = gradients, .acts = acts};
}

Llama with_path(const Llama& model, AttentionPath path) {
  const Branches has = computed_branches(model.shape, model.config), wanted = branches_of(path, model.config);
  SSA_CHECK((has.full || !wanted.full) && (has.selected || !wanted.selected) &&
                (has.compressed || !wanted.compressed) && (has.window || !wanted.window),
            "model: its activations lack a branch of the wanted attention path");
  Llama other = model;
  other.shape.path = path;
  return other;
}

void upload_rotary_table(Stream& stream, const Llama& model) {
  const std::vector<float> table = rope_table(model.config, model.shape.tokens);
  stream.copy(model.acts.cos_sin.data(), table.data(), table.size() * sizeof(float));
  stream.synchronize();
}

namespace {

void call(const PassHooks::Call& hook, std::size_t bucket) {
  if (hook) hook(bucket);
}

}  // namespace

void forward(Stream& s, const Llama& m, const MicroBatch& batch, const PassScales& scales, const LossSums& losses,
             const AttentionSums& attention, const PassHooks& hooks, Weights weights) {
  const ProfilerRange range("forward");
  const Activations& a = m.acts;
  const BucketOrder buckets(m.config);
  call(hooks.before_weights, buckets.norms);
  call(hooks.before_weights, buckets.embedding);
  embedding_forward(s, {.out = a.layers[0].x, .ids = flat_tokens(batch.ids), .weight = m.weights.embedding});
  for (std::int64_t i = 0; i < m.config.num_hidden_layers; ++i) {
    call(hooks.before_weights, buckets.layer(i));
    if (weights == Weights::changed && !m.shape.fp8_weights_given) round_weights(s, m, i);
    forward_layer(s, m, i, batch, scales.alignment, losses.alignment, Run::forward, hooks);
    measure_attention(s, m, i, batch, attention);
  }
  final_norm_forward(s, m);
}

void evaluate(Stream& s, const Llama& m, const MicroBatch& batch, const LossSums& losses,
              const AttentionSums& attention, Tensor position_losses, const PassHooks& hooks) {
  Llama exact = m;
  exact.shape.fp8 = {};
  forward(s, exact, batch, {}, losses, attention, hooks);
  if (!m.config.tie_word_embeddings) call(hooks.before_weights, BucketOrder(m.config).head);
  linear_cross_entropy(s, {.loss_sum = losses.ce,
                           .losses = position_losses,
                           .logits = m.acts.logits,
                           .hidden = m.acts.final_norm,
                           .weight = m.weights.lm_head,
                           .targets = flat_tokens(batch.targets)});
}

void forward_backward(Stream& s, const Llama& m, const MicroBatch& batch, const PassScales& scales,
                      const LossSums& losses, Gradients gradients, const AttentionSums& attention,
                      const PassHooks& hooks, Weights weights) {
  const Activations& a = m.acts;
  const ModelParams& g = m.gradients.params;
  const bool accumulate = gradients == Gradients::add, tied = m.config.tie_word_embeddings;
  const BucketOrder buckets(m.config);
  forward(s, m, batch, scales, losses, attention, hooks, weights);

  const ProfilerRange range("backward");
  if (!tied) call(hooks.before_weights, buckets.head);
  for (const std::size_t bucket : {buckets.norms, buckets.embedding}) call(hooks.before_gradients, bucket);
  if (!tied) call(hooks.before_gradients, buckets.head);
  if (!accumulate)
    for (const Tensor& gradient : m.gradients.added) s.zero(gradient);
  linear_cross_entropy(s, {.loss_sum = losses.ce,
                           .d_hidden = a.d_norm,
                           .d_weight = g.lm_head,
                           .logits = a.logits,
                           .hidden = a.final_norm,
                           .weight = m.weights.lm_head,
                           .targets = flat_tokens(batch.targets),
                           .gradient_scale = scales.ce_gradient,
                           .accumulate = accumulate,
                           .fp8 = m.shape.fp8.has_lm_head() ? &a.fp8.lm_head : nullptr,
                           .fp8_hidden_is_rounded = final_norm_in_fp8(m),
                           .fp8_weight_is_rounded = weights == Weights::unchanged});
  if (!tied) call(hooks.after_gradients, buckets.head);
  s.zero(a.d_x);
  const Fp8Gradient d_out = residual_gradient(m, m.config.num_hidden_layers - 1, LinearLayer::down_proj);
  rmsnorm_backward(s, {.d_residual = a.d_x,
                       .d_weight = g.final_norm,
                       .d_out = a.d_norm,
                       .residual = a.final_x,
                       .rstd = a.final_rstd,
                       .weight = m.weights.final_norm,
                       .fp8 = d_out.d_y,
                       .fp8_t = d_out.d_y_t});
  for (std::int64_t i = m.config.num_hidden_layers - 1; i >= 0; --i) {
    call(hooks.before_weights, buckets.layer(i));
    if (m.shape.checkpointing != GradientCheckpointing::none)
      forward_layer(s, m, i, batch, 0.0, a.discarded, Run::recompute);
    call(hooks.before_gradients, buckets.layer(i));
    backward_layer(s, m, i, batch, scales, accumulate, hooks);
    call(hooks.after_gradients, buckets.layer(i));
  }
  call(hooks.after_gradients, buckets.norms);
  // A tied embedding already has the head's gradient.
  embedding_backward(s, {.d_weight = g.embedding, .d_out = a.d_x, .ids = flat_tokens(batch.ids)});
  call(hooks.after_gradients, buckets.embedding);
}

std::size_t pass_scratch_bytes(const ModelConfig& c, const PassShape& shape, DeviceKind kind) {
  Arena arena;  // gives tensors their shapes and no memory
  const ParamTable table(c);
  const Tensor weights = arena.allocate("weights", activation_dtype(kind), {table.size()});
  const Tensor gradients = arena.allocate("gradients", DType::f32, {table.size()});
  const Llama model = bind_llama(c, shape, bind_params(table, c, weights), lay_out_activations(arena, c, shape, kind),
                                 shape.backward ? bind_gradients(table, c, gradients) : ModelGradients{});
  const MicroBatch batch = allocate_batch(arena, shape);
  const auto sum = [&] { return arena.allocate("sum", DType::f64, {1}); };
  const auto per_head = [&] { return arena.allocate("sum", DType::f64, {c.num_hidden_layers, c.num_attention_heads}); };
  const LossSums losses{.ce = sum(), .alignment = sum()};
  AttentionSums attention{.selected_mass = per_head(), .entropy = per_head()};
  if (shape.measure) {
    attention.distance = per_head();
    attention.norm = per_head();
    attention.sink = per_head();
    attention.sink_tokens = 1;
  }
  Stream stream = Stream::measuring(kind);
  if (shape.backward)
    forward_backward(stream, model, batch, {}, losses, Gradients::overwrite, attention);
  else
    evaluate(stream, model, batch, losses, attention);
  return stream.scratch_bytes();
}

}  // namespace ssa
