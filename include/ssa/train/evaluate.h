// Loss over all sequences of a dataset, spread over the ranks.
#pragma once

#include <cstdint>
#include <functional>

#include "ssa/comm/comm.h"
#include "ssa/data/row_loader.h"
#include "ssa/model/llama.h"
#include "ssa/runtime/arena.h"
#include "ssa/train/batch_staging.h"

namespace ssa {

/// The tensors of forward passes alone, besides the weights.
struct ForwardTensors {
  Activations activations;
  MicroBatch batch;
  LossSums sums;
  Tensor losses;  ///< f32 [M]: of every position
};

ForwardTensors lay_out_forward(Arena& arena, const ModelConfig& model, const PassShape& shape, DeviceKind kind);

struct EvalSums {
  double ce = 0;            ///< cross entropy, nats, summed over targets
  std::int64_t labels = 0;  ///< targets
  bool stopped = false;     ///< `stop` ended the evaluation: the sums are incomplete
  /// 0 without targets.
  double mean() const { return labels > 0 ? ce / static_cast<double>(labels) : 0.0; }
};

/// Runs every sequence of the loader's epoch 0 once through the model. `batch` and `sums`, which are cleared first, are
/// device tensors of the model's shape. `on_batch` is called with the index of each of this rank's batches before it
/// runs. `stop`, a collective, is called by every rank after each round of batches, and ends the evaluation when it
/// returns true. `hooks`, if given, makes the hooks of a pass, which are collectives: then every rank runs equally many
/// passes.
EvalSums evaluate_rows(Stream& stream, Comm& comm, const Llama& model, MicroBatch& batch, const LossSums& sums,
                       BatchStaging& staging, const RowLoader& loader,
                       const std::function<void(std::int64_t batch)>& on_batch = {},
                       const std::function<bool()>& stop = {}, const std::function<PassHooks()>& hooks = {});

}  // namespace ssa
