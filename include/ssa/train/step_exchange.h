// What the ranks send each other in a step: gradients, during the backward pass, and updated weights, while the
// next step begins.
//
//   zero_stage 0   the last micro-batch: all_reduce of each bucket's gradients
//   zero_stage 1   the last micro-batch: reduce_scatter; after the update: all_gather of the weights
//   zero_stage 2   every micro-batch: reduce_scatter, added to the rank's shard; after the update: all_gather
//
// With distributed.overlap, a bucket is reduced once its gradients are complete, from the last layer to the first and
// the embedding at the end, and the weights are gathered in the order in which a forward pass reads them. Without it, and
// without zero_stage 2, gradients are reduced after the last backward pass. The bits are the same: buckets are
// independent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "ssa/comm/comm.h"
#include "ssa/config/config.h"
#include "ssa/runtime/background_queue.h"
#include "ssa/train/model_state.h"

namespace ssa {

class StepExchange {
 public:
  /// A collective.
  StepExchange(Stream& stream, Comm& comm, const ModelState& state, const DistributedConfig& config = {});

  /// For forward_backward of micro-batch `micro` of `count`, which must have Gradients::overwrite if gradients() says so.
  /// With several ranks, the local norms of state.sums are measured. `spoil` is called when all gradients are computed,
  /// and before the embedding's are reduced.
  PassHooks hooks(std::int64_t micro, std::int64_t count, std::function<void()> spoil = {});
  Gradients gradients(std::int64_t micro) const;

  /// After the last micro-batch: ModelState::owned_gradients are sums over the ranks for what the stream does next.
  void finish_gradients();

  /// Sends the weights of `bucket` that this rank owns to the others. Call it for every bucket, in the same order on
  /// every rank. The hooks' passes wait for the weights they read.
  void gather_weights(std::size_t bucket);
  /// For every other reader of the weights.
  void finish_weights();

 private:
  void reduce(std::size_t bucket, bool first_of_step);
  void wait(const char* what, std::vector<BackgroundQueue::Ticket>& tickets, std::size_t bucket);

  Stream& stream_;
  Comm& comm_;
  const ModelState& state_;
  Comm* background_comm_;  ///< of queue_
  bool overlap_;
  BackgroundQueue queue_;
  std::vector<BackgroundQueue::Ticket> reduced_, gathered_;  ///< per bucket, the last one
};

}  // namespace ssa
