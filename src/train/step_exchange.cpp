#include "ssa/train/step_exchange.h"

#include <utility>

#include "kernels/optimizer/optimizer.h"
#include "ssa/comm/watchdog.h"
#include "ssa/runtime/profiler_range.h"

namespace ssa {
namespace {

/// Of one bucket's tensor, the part of rank `rank`.
Tensor part_of(const Tensor& bucket, int rank, int ranks) {
  const std::int64_t each = bucket.count() / ranks;
  return bucket.rows(rank * each, (rank + 1) * each);
}

}  // namespace

StepExchange::StepExchange(Stream& stream, Comm& comm, const ModelState& state, const DistributedConfig& config)
    : stream_(stream),
      comm_(comm),
      state_(state),
      background_comm_(comm.size() > 1 && config.overlap ? comm.background() : nullptr),
      overlap_(background_comm_ != nullptr),
      queue_(stream, overlap_),
      reduced_(state.table().buckets().size()),
      gathered_(reduced_.size()) {
  if (!overlap_) background_comm_ = &comm;
}

Gradients StepExchange::gradients(std::int64_t micro) const {
  return micro == 0 || state_.shape().shards_gradients() ? Gradients::overwrite : Gradients::add;
}

PassHooks StepExchange::hooks(std::int64_t micro, std::int64_t count, std::function<void()> spoil) {
  const bool last = micro == count - 1, every = state_.shape().shards_gradients();
  const bool alone = comm_.size() == 1;
  const std::size_t embedding = BucketOrder(state_.shape().model).embedding;
  PassHooks hooks;
  if (!alone) {
    hooks.before_weights = [this](std::size_t bucket) { wait("gather weights", gathered_, bucket); };
    hooks.before_gradients = [this, every](std::size_t bucket) {
      // At stage 2 the buffer of a layer was last used two layers ago, or in the micro-batch before.
      if (every)
        for (std::size_t i = 0; i < reduced_.size(); ++i)
          if (state_.pass_gradients[i].data() == state_.pass_gradients[bucket].data())
            wait("reduce gradients", reduced_, i);
    };
  }
  hooks.after_gradients = [=, this, spoil = std::move(spoil)](std::size_t bucket) {
    if (spoil && bucket == embedding) spoil();
    if (alone || (!last && !every)) return;
    squared_norm(stream_, {.out = state_.sums.local_squared_norm(bucket), .x = state_.pass_gradients[bucket]});
    if (overlap_ || every) reduce(bucket, micro == 0);
  };
  return hooks;
}

void StepExchange::reduce(std::size_t bucket, bool first_of_step) {
  const ProfilerRange range("reduce gradients");
  const Tensor computed = state_.pass_gradients[bucket];
  const Tensor owned = state_.owned_gradients(state_.table().buckets()[bucket]);
  const StateShape& shape = state_.shape();
  const bool to_shard = shape.shards_gradients(), split = shape.shards_state();
  const Tensor staged = state_.reduce_staging ? state_.reduce_staging.rows(0, computed.count()) : computed;
  const Tensor staged_part = split ? part_of(staged, comm_.rank(), comm_.size()) : staged;
  reduced_[bucket] = queue_.run([=, &comm = *background_comm_](Stream& stream) {
    const bool narrow = staged.data() != computed.data();
    if (narrow) cast(stream, {.out = staged, .x = computed});
    if (!split) {
      comm.all_reduce(stream, staged, ReduceOp::sum);
    } else if (to_shard && first_of_step && !narrow) {
      return comm.reduce_scatter(stream, staged, owned);
    } else {
      comm.reduce_scatter(stream, staged, staged_part);
    }
    if (to_shard && !first_of_step)
      accumulate(stream, {.out = owned, .x = staged_part});
    else if (narrow)
      cast(stream, {.out = owned, .x = staged_part});
  });
}

void StepExchange::finish_gradients() {
  if (comm_.size() == 1) return;
  for (std::size_t i = 0; i < reduced_.size(); ++i) {
    if (!overlap_ && !state_.shape().shards_gradients()) reduce(i, true);
    wait("reduce gradients", reduced_, i);
  }
}

void StepExchange::gather_weights(std::size_t bucket) {
  if (!state_.shape().shards_state()) return;
  const Range range = state_.table().buckets()[bucket].range;
  const Tensor whole = state_.weights.rows(range.begin, range.end);
  const Tensor own = part_of(whole, comm_.rank(), comm_.size());
  gathered_[bucket] =
      queue_.run([=, &comm = *background_comm_](Stream& stream) { comm.all_gather(stream, own, whole); });
}

void StepExchange::finish_weights() {
  for (std::size_t i = 0; i < gathered_.size(); ++i) wait("gather weights", gathered_, i);
}

void StepExchange::wait(const char* what, std::vector<BackgroundQueue::Ticket>& tickets, std::size_t bucket) {
  const BackgroundQueue::Ticket ticket = std::exchange(tickets[bucket], 0);
  if (ticket == 0 || !overlap_) return;
  const WatchedCall call(what);
  queue_.wait(ticket);
}

}  // namespace ssa
