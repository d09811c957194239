// What the ranks send each other in a step: gradients, during the backward pass, and updated weights, while the
// next step begins.
//
//   zero_stage 0   the last micro-batch: all_reduce of each bucket's gradients
//   zero_stage 1   the last micro-batch: reduce_scatter; after the update: all_gather of the weights
//   zero_stage 2   every micro-batch: reduce_scatter, added to the rank's shard; after the update: all_gather
//   zero_stage 3   the same gradients; every pass: all_gather of each layer's weights while the layer before runs, in
//                  the forward and again in the backward pass; in FP8 where training multiplies in FP8 (fp8_weights.h)
//
// With distributed.shard_size s, states are sharded over groups of s consecutive ranks, and every group has all of
// them. Gradients are then reduced in two steps, at every stage: over the ranks of a group, of which each gets a part,
// and that part over the groups; from stage 2 on the second step happens in the last micro-batch only. Weights are
// gathered within a group.
//
// With distributed.overlap, a bucket is reduced once its gradients are complete, from the last layer to the first and
// the embedding at the end, and the weights are gathered in the order in which a forward pass reads them. Without it,
// and below zero_stage 2, gradients are reduced after the last backward pass. The bits are the same: buckets are
// independent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "ssa/comm/comm.h"
#include "ssa/runtime/background_queue.h"
#include "ssa/train/model_state.h"

namespace ssa {

/// The communicators of a run.
class RankGroups {
 public:
  /// A collective. `shard_size` divides the number of ranks; 0: one group of all.
  RankGroups(Comm& all, int shard_size);

  Comm& all() const { return all_; }
  Comm& shard() const { return shard_ ? *shard_ : all_; }  ///< the ranks that share a state with this one
  Comm* replicas() const { return replicas_.get(); }       ///< the ranks with the same part; nullptr: only this one
  /// Whether this rank's group is the one of which sums over all shards count.
  bool first() const { return all_.rank() < shard().size(); }

 private:
  Comm& all_;
  std::unique_ptr<Comm> shard_, replicas_;
};

class StepExchange {
 public:
  /// A collective.
  StepExchange(Stream& stream, const RankGroups& groups, const ModelState& state, bool overlap = true);

  /// For forward_backward of micro-batch `micro` of `count`, which must have Gradients::overwrite if gradients() says
  /// so. With several ranks, the local norms of state.sums are measured. `spoil` is called when all gradients are
  /// computed, and before the embedding's are reduced.
  PassHooks hooks(std::int64_t micro, std::int64_t count, std::function<void()> spoil = {});
  Gradients gradients(std::int64_t micro) const;

  /// After the last micro-batch: ModelState::owned_gradients are sums over the ranks for what the stream does next.
  void finish_gradients();

  /// For an evaluation. The hooks of every pass, whose layers are gathered while it runs at stage 3.
  PassHooks forward_hooks();

  /// Sends the weights of `bucket` that this rank owns to the others; at stage 3 only of the buckets that the next pass
  /// reads first. Call it for every bucket whose weights changed, in the same order on every rank. The hooks' passes
  /// wait for the weights they read.
  void gather_weights(std::size_t bucket);
  /// For every other reader of ModelState::weights.
  void finish_weights();

 private:
  /// What a pass reads of a bucket's gathered weights, and what is in their memory or on the way to it, at stage 3.
  enum class Form {
    none,
    act,
    fp8,             ///< of a layer: w where a matrix is in FP8, else act
    fp8_transposed,  ///< w^T besides
  };
  struct Read {
    std::size_t bucket;
    Form form;
  };
  std::vector<Read> training_reads(bool first_of_step) const;
  Form training_form(std::size_t bucket, bool backward) const;
  PassHooks::Call weight_hook(std::vector<Read> reads);
  void hold_weights(const Read& read);
  void queue_gather(std::size_t bucket);
  void queue_fp8_gather(std::size_t bucket);
  void reduce(std::size_t bucket, bool first_of_step, bool last_of_step);
  void wait(const char* what, std::vector<BackgroundQueue::Ticket>& tickets, std::size_t bucket);

  Stream& stream_;
  const RankGroups& groups_;
  const ModelState& state_;
  Comm *all_, *shard_, *replicas_;  ///< of queue_
  bool overlap_;
  BackgroundQueue queue_;
  std::vector<BackgroundQueue::Ticket> reduced_, gathered_;  ///< per bucket, the last one
  std::vector<Form> held_;                                   ///< per bucket, at stage 3
  std::vector<bool> has_maxima_;  ///< per bucket: Fp8GatheredLayer::maxima belong to the current weights
};

}  // namespace ssa
