// The LLaMA-NSA model: what a forward and a backward pass compute, as straight lists of ops.
// The mathematics is SSA (arXiv 2511.20102) on the LLaMA architecture; dimension letters as in
// kernels/common/dispatch.h, L = num_hidden_layers.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "ssa/model/activations.h"
#include "ssa/model/attention_path.h"
#include "ssa/model/model_config.h"
#include "ssa/model/param_table.h"

namespace ssa {

/// Losses summed over the micro-batches of a step, on the device. Accumulated.
struct LossSums {
  Tensor ce;         ///< [1] f64: cross entropy summed over targets
  Tensor alignment;  ///< [1] f64: alignment loss, already scaled (aligned paths)
};

/// Attention statistics, summed over positions, on the device. Each [L, HQ] f64, accumulated; an absent tensor is not
/// measured. Only passes that compute both full and selected attention measure anything.
struct AttentionSums {
  Tensor selected_mass = {}, entropy = {};     ///< attention_stats.h; both or neither
  Tensor distance = {}, norm = {}, sink = {};  ///< attention_divergence.h; all or none
  std::int64_t sink_tokens = 0;
};

/// The factors that sums and gradients of one micro-batch are scaled with.
struct PassScales {
  double alignment = 0;   ///< of a summed SmoothL1 element and its two terms: 1 / (elements x layers x micro-batches of
                          ///< all ranks); half of it if only one output is aligned
  float ce_gradient = 0;  ///< 1 / targets of the step, over all micro-batches and ranks
  /// Of a summed SmoothL1 element of one term: alignment_weight / (elements x layers x micro-batches of all ranks).
  float alignment_gradient = 0;
  AlignedOutputs aligned_outputs = AlignedOutputs::both;
};

/// Whether a micro-batch overwrites the gradients (the first of a step) or adds to them (the others).
enum class Gradients { overwrite, add };

/// Whether the weights may have changed since the last pass with a backward. If not, a pass multiplies with what that
/// pass rounded to FP8. A step's micro-batches after the first have the same weights.
enum class Weights { changed, unchanged };

/// The gradient of every parameter.
struct ModelGradients {
  ModelParams params;
  std::vector<Tensor> added;  ///< param_table.h: cleared before a step's first micro-batch
};

ModelGradients bind_gradients(const ParamTable& table, const ModelConfig& config, const Tensor& flat);

/// A product of a linear layer y = x @ w^T without FP8, when it is queued.
struct LinearProduct {
  enum class Kind { forward, input_gradient, weight_gradient };
  std::int64_t layer;
  LinearLayer which;
  Kind kind;
  Tensor out;          ///< [M, N] y; [M, K] d_x; [N, K] d_w
  Tensor x, d_y = {};  ///< [M, K]; [M, N], absent in the forward
  Tensor w;            ///< [N, K]
};

/// Functions of the caller that a pass calls on the host while it queues its work, each with an index of
/// ParamTable::buckets(): what they queue on the pass's stream runs at that point of the pass.
struct PassHooks {
  using Call = std::function<void(std::size_t bucket)>;
  /// The pass reads the bucket's weights from here on: the buckets of BucketOrder::forward(), and then, in a backward
  /// pass, the layers from last to first. It reads no other layer's until the next call, but the norms always.
  Call before_weights = {};
  Call before_gradients = {};  ///< the pass writes the bucket's gradients from here on
  Call after_gradients = {};   ///< the bucket's gradients of this micro-batch are complete; layers from last to first
  std::function<void(const LinearProduct&)> after_product = {};  ///< for passes without FP8 that recompute nothing
};

/// The model bound to its memory.
struct Llama {
  ModelConfig config;
  PassShape shape;
  ModelParams weights;       ///< act
  ModelGradients gradients;  ///< f32; empty without backward
  Activations acts;
};

/// Builds a model from its parts, after checking that they fit each other.
Llama bind_llama(const ModelConfig& config, const PassShape& shape, const ModelParams& weights, const Activations& acts,
                 const ModelGradients& gradients = {});

/// The same model in the same memory with another path, for forward passes. Error unless the model's own path has every
/// branch of the other.
Llama with_path(const Llama& model, AttentionPath path);

/// Uploads the rotary table; call once after the activations got their memory.
void upload_rotary_table(Stream& stream, const Llama& model);

/// Runs the model over a micro-batch up to the normalized output of the last layer: acts.final_norm, or, with the LM
/// head in FP8, the head's operands.
void forward(Stream& stream, const Llama& model, const MicroBatch& batch, const PassScales& scales,
             const LossSums& losses, const AttentionSums& attention = {}, const PassHooks& hooks = {},
             Weights weights = Weights::changed);

/// forward without FP8, then the summed cross entropy into losses.ce, and, if given, the loss of every position into
/// `position_losses` [M] f32.
void evaluate(Stream& stream, const Llama& model, const MicroBatch& batch, const LossSums& losses,
              const AttentionSums& attention = {}, Tensor position_losses = {}, const PassHooks& hooks = {});

/// forward, loss and backward: overwrites every gradient, or adds to it.
void forward_backward(Stream& stream, const Llama& model, const MicroBatch& batch, const PassScales& scales,
                      const LossSums& losses, Gradients gradients, const AttentionSums& attention = {},
                      const PassHooks& hooks = {}, Weights weights = Weights::changed);

/// The largest scratch of any op in a pass of this shape. Runs the pass on a measuring stream, which touches no device.
std::size_t pass_scratch_bytes(const ModelConfig& config, const PassShape& shape, DeviceKind kind);

}  // namespace ssa
