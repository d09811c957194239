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

/// The sum over all ranks: over the shard group, of which each rank gets a part, that part over the groups, and back.
void sum_in_steps(Stream& stream, Comm& shard, Comm& replicas, const Tensor& bucket) {
  const Tensor part = part_of(bucket, shard.rank(), shard.size());
  shard.reduce_scatter(stream, bucket, part);
  replicas.all_reduce(stream, part, ReduceOp::sum);
  shard.all_gather(stream, part, bucket);
}

/// The sum over `replicas`, sent in bf16 through `staging` where that is given.
void sum_over_replicas(Stream& stream, Comm& replicas, const Tensor& gradients, const Tensor& staging) {
  if (!staging) return replicas.all_reduce(stream, gradients, ReduceOp::sum);
  const Tensor narrow = staging.rows(0, gradients.count());
  cast(stream, {.out = narrow, .x = gradients});
  replicas.all_reduce(stream, narrow, ReduceOp::sum);
  cast(stream, {.out = gradients, .x = narrow});
}

}  // namespace

RankGroups::RankGroups(Comm& all, int shard_size) : all_(all) {
  if (shard_size == 0 || shard_size == all.size()) return;
  SSA_CHECK(all.size() % shard_size == 0, shard_size, " ranks in a shard group, expected a divisor of ", all.size());
  shard_ = all.split(all.rank() / shard_size);
  replicas_ = all.split(all.rank() % shard_size);
}

StepExchange::StepExchange(Stream& stream, const RankGroups& groups, const ModelState& state, bool overlap)
    : stream_(stream),
      groups_(groups),
      state_(state),
      all_(&groups.all()),
      shard_(&groups.shard()),
      replicas_(groups.replicas()),
      overlap_(overlap && groups.all().size() > 1 && groups.all().background()),
      queue_(stream, overlap_),
      reduced_(state.table().buckets().size()),
      gathered_(reduced_.size()),
      held_(reduced_.size()) {
  if (!overlap_) return;
  all_ = all_->background();
  shard_ = shard_->background();
  if (replicas_) replicas_ = replicas_->background();
}

Gradients StepExchange::gradients(std::int64_t micro) const {
  return micro == 0 || state_.shape().shards_gradients() ? Gradients::overwrite : Gradients::add;
}

PassHooks StepExchange::hooks(std::int64_t micro, std::int64_t count, std::function<void()> spoil) {
  const bool last = micro == count - 1, every = state_.shape().shards_gradients();
  const bool alone = groups_.all().size() == 1;
  const BucketOrder order(state_.shape().model);
  const std::size_t embedding = order.embedding;
  PassHooks hooks;
  if (!alone) {
    std::vector<std::size_t> reads = order.forward();
    for (std::int64_t i = state_.shape().model.num_hidden_layers - 1; i >= 0; --i) reads.push_back(order.layer(i));
    hooks.before_weights = weight_hook(std::move(reads));
    hooks.before_gradients = [this, every](std::size_t bucket) {
      // From stage 2 on the buffer of a layer was last used two layers ago, or in the micro-batch before.
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
    if (overlap_ || every) reduce(bucket, micro == 0, last);
  };
  return hooks;
}

PassHooks StepExchange::forward_hooks() {
  return {.before_weights = weight_hook(BucketOrder(state_.shape().model).forward())};
}

PassHooks::Call StepExchange::weight_hook(std::vector<std::size_t> reads) {
  if (!state_.shape().shards_weights())
    return [this](std::size_t bucket) { wait("gather weights", gathered_, bucket); };
  return [this, reads = std::move(reads), at = std::size_t{0}](std::size_t bucket) mutable {
    SSA_CHECK(at < reads.size() && reads[at] == bucket, "weights: a pass reads bucket ", bucket, " as number ", at,
              " of ", reads.size(), ", expected another order");
    hold_weights(bucket);
    wait("gather weights", gathered_, bucket);
    if (++at < reads.size()) hold_weights(reads[at]);
  };
}

/// What had the bucket's memory before is not read any more by what the stream does next.
void StepExchange::hold_weights(std::size_t bucket) {
  if (held_[bucket]) return;
  for (std::size_t i = 0; i < held_.size(); ++i)
    if (state_.pass_weights[i].data() == state_.pass_weights[bucket].data()) held_[i] = false;
  held_[bucket] = true;
  queue_gather(bucket);
}

void StepExchange::reduce(std::size_t bucket, bool first_of_step, bool last_of_step) {
  const ProfilerRange range("reduce gradients");
  const Tensor computed = state_.pass_gradients[bucket], staging = state_.reduce_staging;
  const Tensor owned = state_.owned_gradients(state_.table().buckets()[bucket]);
  const bool to_shard = state_.shape().shards_gradients(), split = state_.shape().shards_state();
  const Tensor sent = staging ? staging.rows(0, computed.count()) : computed;
  const Tensor part = split ? part_of(sent, shard_->rank(), shard_->size()) : sent;
  reduced_[bucket] = queue_.run([=, this](Stream& stream) {
    if (staging) cast(stream, {.out = sent, .x = computed});
    const bool straight = to_shard && first_of_step && !staging;
    if (split)
      shard_->reduce_scatter(stream, sent, straight ? owned : part);
    else if (replicas_)
      sum_in_steps(stream, *shard_, *replicas_, sent);
    else
      all_->all_reduce(stream, sent, ReduceOp::sum);
    if (to_shard && !first_of_step)
      accumulate(stream, {.out = owned, .x = part});
    else if (staging)
      cast(stream, {.out = owned, .x = part});
    if (split && replicas_ && last_of_step) sum_over_replicas(stream, *replicas_, owned, staging);
  });
}

void StepExchange::finish_gradients() {
  if (groups_.all().size() == 1) return;
  for (std::size_t i = 0; i < reduced_.size(); ++i) {
    if (!overlap_ && !state_.shape().shards_gradients()) reduce(i, true, true);
    wait("reduce gradients", reduced_, i);
  }
}

void StepExchange::gather_weights(std::size_t bucket) {
  if (!state_.shape().shards_state()) return;
  if (!state_.shape().shards_weights()) return queue_gather(bucket);
  held_[bucket] = false;
  const BucketOrder order(state_.shape().model);
  if (bucket == order.norms || bucket == order.embedding || bucket == order.layer(0)) hold_weights(bucket);
}

void StepExchange::queue_gather(std::size_t bucket) {
  const Tensor whole = state_.pass_weights[bucket], own = state_.owned_weights(state_.table().buckets()[bucket]);
  gathered_[bucket] = queue_.run([=, this](Stream& stream) { shard_->all_gather(stream, own, whole); });
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
