// The LLaMA-NSA model: what a forward and a backward pass compute, as straight lists of ops.
// The mathematics is that of SSA (arXiv 2511.20102) on the LLaMA architecture; dimension letters as in ops/dispatch.h,
// L = num_hidden_layers.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/attention/select_blocks/select_blocks.h"
#include "ssa/model/attention_path.h"
#include "ssa/model/model_config.h"
#include "ssa/model/param_table.h"
#include "ssa/runtime/arena.h"

namespace ssa {

/// What a micro-batch looks like and how its passes run; fixes the size of every activation.
struct PassShape {
  std::int64_t rows;    ///< B
  std::int64_t tokens;  ///< T
  AttentionPath path;
  GradientCheckpointing checkpointing = GradientCheckpointing::none;
  bool backward = true;           ///< false: forward passes only, nothing is kept
  std::int64_t logits_chunk = 0;  ///< rows of logits that exist at a time; 0 = logits_chunk_for(...)
  bool measure = false;  ///< full and selected attention both, whatever the path, for PassSums; without backward
};

/// The branches a pass computes: those of its path, and full and selected attention when it measures.
Branches computed_branches(const PassShape& shape, const ModelConfig& config);

/// Rows of logits whose memory stays below about 2 GiB on CUDA, 64 MiB on the CPU.
std::int64_t logits_chunk_for(const ModelConfig& config, std::int64_t tokens, DeviceKind kind);

/// One micro-batch on the device.
struct MicroBatch {
  Tensor ids;          ///< [B, T] i32
  Tensor targets;      ///< [B, T] i32: the next token's id, or -100
  Tensor positions;    ///< [B, T] i32: from 0 in each document piece
  Tensor full_stream;  ///< [B] i32: 1 = the full-attention stream goes on (path ssa)
};

/// What a block's forward leaves for its backward. Tensors the policy computes again are shared between the blocks.
struct LayerActivations {
  Tensor x;                           ///< [M, H] input of the block
  Tensor input_norm, input_rstd;      ///< [M, H], [M]
  Tensor q, k, v, gates;              ///< qkv_rope.h
  Tensor k_mean, v_mean;              ///< [B, N, HK, D]
  Tensor indices;                     ///< [B, T, HK, S']
  Tensor full, full_lse;              ///< causal attention
  Tensor sparse, sparse_lse;          ///< selected blocks
  Tensor compressed, compressed_lse;  ///< nsa
  Tensor window, window_lse;          ///< nsa with window_size > 0
  Tensor attention;                   ///< [M, HQ D] gated output of the attention
  Tensor mid;                         ///< [M, H] after the attention's residual add
  Tensor post_norm, post_rstd;        ///< [M, H], [M]
  Tensor gate_up;                     ///< [M, 2 F]
  Tensor swiglu;                      ///< [M, F]
};

/// Every activation and working tensor of a pass.
struct Activations {
  std::vector<LayerActivations> layers;
  Tensor final_x, final_norm, final_rstd;  ///< output of the last block; [M, H], [M, H], [M]
  Tensor qkvg;                             ///< [M, (HQ + 2 HK) D + 3 HQ]
  Tensor residual_delta;                   ///< [M, H] output of o_proj or down_proj before its residual add
  Tensor logits;                           ///< [chunk, V]
  Tensor cos_sin;                          ///< [T, D/2, 2] f32
  Tensor discarded;                        ///< [1] f64: where a forward run again puts its alignment

  Tensor d_x, d_norm, d_qkvg, d_attention, d_gate_up, d_swiglu;  ///< gradients, one block at a time
  Tensor d_q, d_k, d_v, d_k_mean, d_v_mean, d_gates;             ///< f32
  Tensor d_full, d_sparse, d_compressed, d_window;
  Tensor delta_full, delta_sparse, delta_compressed, delta_window;  ///< [B, T, HQ] f32
};

/// Lays the activations out in `arena`; over a measuring arena this is the memory plan.
Activations lay_out_activations(Arena& arena, const ModelConfig& config, const PassShape& shape,
                                BlockSelection selection, DeviceKind kind);

/// Scratch that the ops of a pass want of the stream.
std::size_t pass_scratch_bytes(const ModelConfig& config, const PassShape& shape, BlockSelection selection,
                               DeviceKind kind);

/// Sums over the micro-batches of a step, on the device. All are accumulated.
struct PassSums {
  Tensor ce;                  ///< [1] f64: cross entropy summed over targets
  Tensor alignment;           ///< [1] f64: alignment loss (path ssa)
  Tensor selected_mass = {};  ///< [L, HQ] f64, sums over positions: absent = not measured (path ssa, or with measure)
  Tensor entropy = {};        ///< [L, HQ] f64
  Tensor distance = {};       ///< [L, HQ] f64, as attention_divergence.h; absent = not measured
  Tensor norm = {};           ///< [L, HQ] f64
  Tensor sink = {};           ///< [L, HQ] f64
  std::int64_t sink_tokens = 0;
};

/// How the sums and gradients of one micro-batch count in the step's.
struct PassScales {
  double alignment = 0;          ///< of a summed SmoothL1 element: 1 / (elements x layers x micro-batches of all ranks)
  float ce_gradient = 0;         ///< 1 / targets of the step, over all micro-batches and ranks
  float alignment_gradient = 0;  ///< alignment_weight x alignment
};

/// What a micro-batch does to the gradients that are there: the first of a step overwrites them, whatever they hold,
/// the others add to them.
enum class Gradients { overwrite, add };

/// The model bound to its memory.
struct Llama {
  ModelConfig config;
  PassShape shape;
  BlockSelection selection;
  ModelParams weights;                       ///< act
  ModelParams gradients;                     ///< f32; unused without backward
  std::vector<Tensor> added_gradients = {};  ///< param_table.h: what a step's first micro-batch has to clear
  Activations acts;
};

/// The same model in the same memory with another path, for forward passes. Error unless the model's own path has every
/// branch of the other.
Llama with_path(const Llama& model, AttentionPath path);

/// Uploads the rotary table; call once after the activations got their memory.
void prepare(Stream& stream, const Llama& model);

/// Runs the model over a micro-batch up to the normalized output of the last block (acts.final_norm).
void forward(Stream& stream, const Llama& model, const MicroBatch& batch, const PassScales& scales,
             const PassSums& sums);

/// forward, then the summed cross entropy into sums.ce, and with `losses` [M] f32 given each position's.
void evaluate(Stream& stream, const Llama& model, const MicroBatch& batch, const PassSums& sums, Tensor losses = {});

/// forward, loss and backward: overwrites every gradient, or adds to it.
void forward_backward(Stream& stream, const Llama& model, const MicroBatch& batch, const PassScales& scales,
                      const PassSums& sums, Gradients gradients);

}  // namespace ssa
