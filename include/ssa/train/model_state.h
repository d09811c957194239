// The device memory of a run: parameters, gradients, optimizer state, activations, batches.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ssa/model/llama.h"
#include "ssa/model/param_table.h"
#include "ssa/runtime/arena.h"
#include "ssa/runtime/stream.h"
#include "ssa/train/fp8_weights.h"
#include "ssa/train/step_sums.h"

namespace ssa {

/// While the gradients of a layer are reduced, the next layer's are computed into the other buffer; while a layer reads
/// its weights, the next layer's are gathered into the other one.
inline constexpr std::size_t kLayerBuffers = 2;

/// Determines the memory of a run.
struct StateShape {
  ModelConfig model;
  PassShape pass;
  DeviceKind kind = DeviceKind::cpu;
  int ranks = 1;
  int zero_stage = 0;  ///< 1: master weights and moments are split over the ranks; 2: gradients too; 3: weights too
  DType reduce_dtype = DType::f32;                     ///< in which gradients are summed over the ranks: f32 or bf16
  DType moments_dtype = DType::f32;                    ///< f32 or bf16
  bool offload_moments = false;                        ///< the moments are in pinned host memory
  std::int64_t moments_piece = std::int64_t{1} << 23;  ///< the most moments of a kind in a staging buffer, if so
  /// Forward passes of train.eval_tasks, at their largest. They have memory of their own while they run.
  std::vector<PassShape> tasks = {};

  int shard_size = 0;  ///< consecutive ranks that share a state; 0: all

  bool async_checkpoints = false;  ///< the host has room for a copy of all master weights and moments

  int shards() const { return shard_size > 0 ? shard_size : ranks; }
  bool shards_state() const { return zero_stage >= 1 && shards() > 1; }
  bool shards_gradients() const { return zero_stage >= 2 && shards() > 1; }
  bool shards_weights() const { return zero_stage >= 3 && shards() > 1; }
};

/// AdamW's first and second moments.
struct Moments {
  Tensor m, v;
};

/// Staging buffers of offloaded moments: one piece is copied to the device while the one before it is updated and the
/// one before that is copied back.
inline constexpr std::size_t kMomentBuffers = 3;

/// The tensors of a run. A rank owns the elements whose optimizer state it keeps: all at ZeRO stage 0, else its slice
/// of every bucket, one slice after another.
struct StateTensors {
  Tensor weights;  ///< act [size]: what the ops read; at ZeRO stage 3 [owned]
  /// act: where a pass reads the weights of each bucket of the ParamTable: parts of `weights`, or, at ZeRO stage 3,
  /// buffers that StepExchange fills. Layers i and i + 2 share one, and so do the embedding and an untied LM head.
  std::vector<Tensor> pass_weights;
  std::vector<Fp8GatheredLayer> fp8_layers;  ///< in pass_weights, at ZeRO stage 3 with linear layers in FP8; else empty
  Tensor master;  ///< f32 [owned]: what the optimizer updates; absent on the CPU, where the weights are f32 themselves
  Tensor gradients;  ///< f32 [size]; from ZeRO stage 2 on [owned]: sums over the micro-batches and ranks so far
  /// f32: where a backward pass writes the gradients of each bucket of the ParamTable: parts of `gradients`, or, from
  /// ZeRO stage 2 on, buffers for one micro-batch, of which layers i and i + 2 share one.
  std::vector<Tensor> pass_gradients;
  Tensor reduce_staging;  ///< bf16 [largest bucket]: a bucket being reduced in bf16; absent with f32
  Tensor m, v;            ///< moments_dtype [owned]: AdamW's moments; in pinned host memory with offload_moments
  std::vector<Moments> moment_staging;  ///< moments_dtype, kMomentBuffers on the device; empty without offload_moments
  Activations activations;
  MicroBatch batch;
  StepSums sums;  ///< of the step so far
};

/// Bytes of a rank by category, computed before anything is allocated.
struct MemoryPlan {
  struct Category {
    std::string name;
    std::size_t bytes = 0;
    std::vector<Arena::Entry> entries;  ///< summed by name, in the order of their first allocation
  };
  std::vector<Category> categories;  ///< on the device
  Category host;                     ///< in pinned host memory, in addition; on the CPU empty, and part of `categories`
  /// In host memory, pinned for a GPU, in addition: StateSnapshot::bytes, on the ranks that own what rank 0 writes.
  /// Empty without optimizer state.
  Category checkpoints;

  std::size_t total() const;      ///< on the device
  std::string to_string() const;  ///< a line per category, and its largest entries
};

/// Of all weights as the ops read them: what tasks need at ZeRO stage 3, besides the shard.
std::size_t whole_weights_bytes(const StateShape& shape, const ParamTable& table);

/// UsageError when the kernels of the shape's device do not support the model.
void check_supported(const StateShape& shape);

MemoryPlan plan_memory(const StateShape& shape, const ParamTable& table);

/// Why `ranks` ranks on one machine cannot have the plan's pinned host memory where `free` bytes are free; empty if
/// they can.
std::string why_no_host_memory(const MemoryPlan& plan, int ranks, std::size_t free);

/// The most sequences in a micro-batch whose plan fits in `bytes` of the device; 0 if not even one does.
std::int64_t largest_micro_batch(StateShape shape, const ParamTable& table, std::size_t bytes);

/// What would fit in `bytes` of the device under other values of train.per_device_train_batch_size,
/// distributed.zero_stage and train.offload_moments, for the message of a plan that does not.
std::string memory_advice(const StateShape& shape, const ParamTable& table, std::size_t bytes);

/// The tensors bound to memory, and the model over them.
class ModelState : public StateTensors {
 public:
  /// check_supported, then allocates and clears. When the device is too small, the Error has the plan and
  /// memory_advice().
  ModelState(Stream& stream, const StateShape& shape, const ParamTable& table, int rank = 0);

  const StateShape& shape() const { return shape_; }
  const ParamTable& table() const { return table_; }
  const Llama& model() const { return model_; }
  int rank() const { return rank_; }  ///< among the shards

  /// The elements of `bucket` that this rank owns, as a range of the flat buffers.
  Range owned(const Bucket& bucket) const;
  /// The same elements in `master`, `m` or `v`.
  Tensor owned_view(const Tensor& tensor, const Bucket& bucket) const;
  /// The gradients of the owned elements. Until they are reduced they have only this rank's part of the sum; from ZeRO
  /// stage 2 on they are always sums over the ranks.
  Tensor owned_gradients(const Bucket& bucket) const;
  /// The gradients of the bucket's slice of this rank, also where every rank owns all: the ranks' slices are the
  /// bucket.
  Tensor gradient_slice(const Bucket& bucket) const;
  /// The owned elements of `weights`.
  Tensor owned_weights(const Bucket& bucket) const;
  /// The owned master weights of a bucket: of `master`, or of the weights where they are f32.
  Tensor owned_master(const Bucket& bucket) const;

 private:
  StateShape shape_;
  const ParamTable& table_;
  int rank_;
  std::vector<Buffer> buffers_;
  Llama model_;
};

/// Where values come from: elements [first, first + out.size()) of parameter `param` of the table.
using ReadParam = std::function<void(std::size_t param, std::span<float> out, std::int64_t first)>;

/// Elements [range.begin, range.end) of a flat buffer of parameters on the host, with zeros between the parameters.
std::vector<float> read_range(const ParamTable& table, Range range, const ReadParam& read);

/// Fills `to`, the owned elements of `bucket`, f32 or bf16, with parameter values, and zeros between the parameters.
void load_owned(Stream& stream, const ModelState& state, const Bucket& bucket, const Tensor& to, const ReadParam& read);

/// load_owned of every bucket's master weights. publish_weights (optimizer_step.h) then updates the ops' weights.
void load_master_weights(Stream& stream, const ModelState& state, const ReadParam& read);

}  // namespace ssa
