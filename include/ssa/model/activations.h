// The memory of a pass: its shape, the micro-batch it reads, and every activation. src/model/activations.cpp has the
// table of activations that each layer keeps for the backward and of those that are recomputed.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "kernels/attention/documents.h"
#include "kernels/attention/select_blocks/select_blocks.h"
#include "kernels/linear_cross_entropy/linear_cross_entropy.h"
#include "kernels/quantize_fp8/fp8_matrix.h"
#include "ssa/model/attention_path.h"
#include "ssa/model/fp8_layers.h"
#include "ssa/model/model_config.h"
#include "ssa/runtime/arena.h"
#include "ssa/runtime/stream.h"

namespace ssa {

/// The dtype of weights and activations, "act" in the shapes below.
constexpr DType activation_dtype(DeviceKind kind) { return kind == DeviceKind::cuda ? DType::bf16 : DType::f32; }

/// The shape of a micro-batch and how its passes run. Determines the size of every activation.
struct PassShape {
  std::int64_t rows;    ///< B: sequences
  std::int64_t tokens;  ///< T: tokens per sequence
  AttentionPath path;
  BlockSelection selection = BlockSelection::exact;
  GradientCheckpointing checkpointing = GradientCheckpointing::none;
  Fp8Layers fp8 = {};  ///< linear layers and head of passes with a backward
  /// The caller has written Fp8Operands::weights of a layer when PassHooks::before_weights returns, and gave their
  /// memory. Otherwise a pass rounds them.
  bool fp8_weights_given = false;
  bool backward = true;           ///< false: forward passes only, whose layers share their activations
  std::int64_t logits_chunk = 0;  ///< tokens whose logits exist at a time; 0 = logits_chunk_for(...)
  bool document_mask = false;     ///< micro-batches have MicroBatch::documents
  bool measure = false;  ///< compute full and selected attention, whatever the path, for AttentionSums; no backward
};

/// The branches a pass computes: branches_of its path, plus full and selected attention if it measures both.
Branches computed_branches(const PassShape& shape, const ModelConfig& config);

/// Tokens whose logits take less than about 2 GiB on CUDA, 64 MiB on the CPU; a multiple of 16, or all tokens.
std::int64_t logits_chunk_for(const ModelConfig& config, std::int64_t tokens, DeviceKind kind);

/// One micro-batch on the device.
struct MicroBatch {
  Tensor ids;          ///< [B, T] i32
  Tensor targets;      ///< [B, T] i32: the next token's id, or -100
  Tensor positions;    ///< [B, T] i32: from 0 in each document piece
  Tensor full_stream;  ///< [B] i32: 1 = full attention's output is passed on, 0 = selected attention's (path ssa)
  DocumentBounds documents = {};  ///< with PassShape::document_mask: no token attends to another piece
  bool whole_rows = false;        ///< every row is one piece: attention runs without the mask, which is faster

  DocumentBounds mask() const { return whole_rows ? DocumentBounds() : documents; }
};

MicroBatch allocate_batch(Arena& arena, const PassShape& shape);

/// The outputs of one layer's forward that its backward reads.
struct LayerActivations {
  Tensor x;                           ///< [M, H] input of the layer
  Tensor input_norm, input_rstd;      ///< [M, H], [M]
  Tensor q, k, v, gates;              ///< qkv_rope.h
  Tensor k_mean, v_mean;              ///< [B, N, HK, D]
  Tensor indices;                     ///< [B, T, HK, S']
  Tensor full, full_lse;              ///< causal attention
  Tensor sparse, sparse_lse;          ///< attention over the selected blocks
  Tensor compressed, compressed_lse;  ///< attention over the block means
  Tensor window, window_lse;          ///< sliding-window attention
  Tensor attention;                   ///< [M, HQ D] gated output of the attention
  Tensor mid;                         ///< [M, H] after the attention's residual add
  Tensor post_norm, post_rstd;        ///< [M, H], [M]
  Tensor gate_up;                     ///< [M, 2 F]
  Tensor swiglu;                      ///< [M, F]
  /// The inputs of linear layers in FP8, transposed, where a layer keeps them for their weight gradients.
  Fp8Matrix input_norm_t, attention_t, post_norm_t, swiglu_t;
};

/// From which gradient_checkpointing mode on the backward recomputes an activation. Until then every layer keeps its
/// own, in FP8 if it is the input of a linear layer in FP8; a recomputed one exists once, for all layers.
enum class Lifetime {
  kept_per_layer,        ///< kept in every mode
  recomputed_selective,  ///< recomputed under `selective` and `full`
  recomputed_full,       ///< recomputed under `full`
};

/// The entry of the table in activations.cpp, which both the memory layout and the recomputation in llama.cpp read.
Lifetime lifetime_of(Tensor LayerActivations::*activation);

constexpr bool is_kept(Lifetime lifetime, GradientCheckpointing mode) {
  switch (lifetime) {
    case Lifetime::kept_per_layer: return true;
    case Lifetime::recomputed_selective: return mode == GradientCheckpointing::none;
    case Lifetime::recomputed_full: return mode != GradientCheckpointing::full;
  }
  fail("unknown lifetime");
}

/// A weight in FP8: w for the forward product, w^T for the input gradient. Square blocks; absent where the linear layer
/// does not compute in FP8.
struct Fp8Weight {
  Fp8Matrix w = {}, w_t = {};
};

/// The weights of a layer, in the order of kLinearLayers.
using Fp8LayerWeights = std::array<Fp8Weight, kLinearLayers.size()>;

/// The operands of the FP8 products; absent without FP8. `weights` has every layer; the other buffers hold the operands
/// of one linear layer at a time.
struct Fp8Operands {
  /// [L]: rounded once per optimizer step; empty with PassShape::fp8_weights_given until the caller sets them
  std::vector<Fp8LayerWeights> weights;
  Fp8Buffer x;                       ///< x in the forward; x^T in the backward, where the forward did not keep it
  Fp8Buffer d_y, d_y_t;              ///< d_y and its transpose, for the input and the weight gradient
  Fp8Buffer d_gate_up, d_gate_up_t;  ///< the same of gate_up_proj, where swiglu_backward writes them
  LinearCrossEntropyFp8 lm_head;     ///< of the LM head
};

/// Every activation and working tensor of a pass.
struct Activations {
  std::vector<LayerActivations> layers;
  Tensor final_x, final_norm, final_rstd;  ///< output of the last layer; [M, H], [M, H], [M]
  Tensor qkvg;                             ///< [M, (HQ + 2 HK) D + 3 HQ], rows padded
  Tensor residual_delta;                   ///< [M, H] output of o_proj or down_proj before its residual add
  Tensor logits;                           ///< [chunk, V], rows padded
  Tensor cos_sin;                          ///< [T, D/2, 2] f32
  Tensor discarded;                        ///< [1] f64: receives the alignment loss when a layer is recomputed

  Fp8Operands fp8;

  Tensor d_x, d_norm, d_qkvg, d_attention, d_gate_up, d_swiglu;  ///< gradients, one layer at a time
  Tensor d_q, d_k, d_v, d_k_mean, d_v_mean, d_gates;             ///< f32
  Tensor d_full, d_sparse, d_compressed, d_window;
  Tensor delta_full, delta_sparse, delta_compressed, delta_window;  ///< [B, T, HQ] f32
};

/// One layer's keys and values, and their block means where the path reads them.
struct KeyValues {
  Tensor k, v;            ///< [B, T, HK, D] act
  Tensor k_mean, v_mean;  ///< [B, N, HK, D] act
};

/// Memory outside the arena that a pass writes its keys and values to and reads the rotary table from: a decoder's.
struct KvPlacement {
  std::vector<KeyValues> layers;
  Tensor cos_sin;
};

/// Allocates the activations in `arena`; with a measuring arena this is the memory plan. Tensors given in `placement`
/// are used as they are and take no memory.
Activations lay_out_activations(Arena& arena, const ModelConfig& config, const PassShape& shape, DeviceKind kind,
                                const KvPlacement* placement = nullptr);

}  // namespace ssa
