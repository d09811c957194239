// A trained model on a device: forward passes of any shape and setting share one copy of the weights.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "ssa/eval/setting.h"
#include "ssa/model/llama.h"
#include "ssa/model/param_table.h"
#include "ssa/train/evaluate.h"

namespace ssa::eval {

/// The weights on the device: f32 on the CPU, bf16 on a GPU.
class LoadedModel {
 public:
  LoadedModel(Stream& stream, const ModelSource& source);
  /// Weights that are on the device already, and outlive this.
  LoadedModel(const ParamTable& table, const Tensor& weights) : table_(table), weights_(weights) {}

  const ParamTable& table() const { return table_; }
  const Tensor& weights() const { return weights_; }

 private:
  ParamTable table_;
  Buffer memory_;
  Tensor weights_;
};

/// Sequences for one forward pass.
struct RowBatch {
  std::vector<std::vector<std::int32_t>> ids;
  std::vector<std::vector<std::int32_t>> targets;  ///< of the same lengths: the next token, or -100 for no target
  std::vector<std::vector<std::int32_t>> positions = {};  ///< of the same lengths; empty = 0, 1, ... in each sequence
};

/// Sequences shorter than the longest are padded at the end, where no real position attends to the padding.
class ForwardPass {
 public:
  /// UsageError when the device's kernels do not support the model. With `sink_tokens` above 0 the passes also collect
  /// attention statistics, see measured().
  ForwardPass(Stream& stream, const LoadedModel& loaded, const Setting& setting, std::int64_t sink_tokens = 0);

  const Setting& setting() const { return setting_; }
  DeviceKind device() const { return stream_.kind(); }

  /// The loss of every target in nats, in the shape of the batch; 0 where there is no target.
  std::vector<std::vector<float>> losses(const RowBatch& batch);

  /// The loss summed over a dataset (evaluate.h), `rows` rows per batch, with the loader's document mask if it has one.
  EvalSums dataset_loss(Comm& comm, const RowLoader& loader, std::int64_t rows,
                        const std::function<void(std::int64_t batch)>& on_batch);

  /// The id of the largest logit at positions [first, last) of sequence `row` of the last pass; ties to the lower id.
  std::vector<std::int32_t> largest(std::int64_t row, std::int64_t first, std::int64_t last);

  /// Sums over all positions of the passes so far, including padding; each [layers x heads].
  struct Measured {
    std::vector<double> selected_mass, entropy, distance, norm, sink;
  };
  Measured measured();

 private:
  /// Allocates and binds the model for this shape, unless it is the current one.
  void prepare_shape(std::int64_t rows, std::int64_t tokens, bool document_mask = false);
  void upload(const RowBatch& batch);

  Stream& stream_;
  const LoadedModel& loaded_;
  Setting setting_;
  std::int64_t sink_tokens_;
  Buffer memory_, measured_memory_;
  AttentionSums measured_;  ///< over measured_memory_; absent when nothing is measured
  Llama model_;
  MicroBatch batch_;
  LossSums sums_;
  Tensor losses_;
};

}  // namespace ssa::eval
