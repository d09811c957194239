#include "ssa/train/step_exchange.h"

#include <utility>

#include "kernels/optimizer/optimizer.h"
#include "ssa/comm/watchdog.h"
#include "ssa/runtime/profiler_range.h"
#include "ssa/train/fp8_weights.h"

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
      held_(reduced_.size(), Form::none),
      has_maxima_(reduced_.size()) {
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
    hooks.before_weights = weight_hook(training_reads(micro == 0));
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
  std::vector<Read> reads;
  for (const std::size_t bucket : BucketOrder(state_.shape().model).forward()) reads.push_back({bucket, Form::act});
  return {.before_weights = weight_hook(std::move(reads))};
}

StepExchange::Form StepExchange::training_form(std::size_t bucket, bool backward) const {
  const ModelConfig& model = state_.shape().model;
  const BucketOrder order(model);
  const std::int64_t layer = static_cast<std::int64_t>(bucket) - static_cast<std::int64_t>(order.first_layer);
  if (layer < 0 || layer >= model.num_hidden_layers || !state_.shape().pass.fp8.has_any_of(layer)) return Form::act;
  return backward ? Form::fp8_transposed : Form::fp8;
}

/// The head's weights in FP8 remain from a step's first micro-batch.
std::vector<StepExchange::Read> StepExchange::training_reads(bool first_of_step) const {
  const ModelConfig& model = state_.shape().model;
  const BucketOrder order(model);
  const bool rounded_head = !first_of_step && !model.tie_word_embeddings && state_.shape().pass.fp8.has_lm_head();
  std::vector<Read> reads;
  for (const std::size_t bucket : order.forward())
    reads.push_back({bucket, rounded_head && bucket == order.head ? Form::none : training_form(bucket, false)});
  for (std::int64_t i = model.num_hidden_layers - 1; i >= 0; --i)
    reads.push_back({order.layer(i), training_form(order.layer(i), true)});
  return reads;
}

PassHooks::Call StepExchange::weight_hook(std::vector<Read> reads) {
  if (!state_.shape().shards_weights())
    return [this](std::size_t bucket) { wait("gather weights", gathered_, bucket); };
  return [this, reads = std::move(reads), at = std::size_t{0}](std::size_t bucket) mutable {
    SSA_CHECK(at < reads.size() && reads[at].bucket == bucket, "weights: a pass reads bucket ", bucket, " as number ",
              at, " of ", reads.size(), ", expected another order");
    hold_weights(reads[at]);
    wait("gather weights", gathered_, bucket);
    if (++at < reads.size()) hold_weights(reads[at]);
  };
}

/// What had the bucket's memory before is not read any more by what the stream does next.
void StepExchange::hold_weights(const Read& read) {
  const auto [bucket, form] = read;
  const Form held = held_[bucket];
  if (form == Form::none || held == form || (held == Form::fp8_transposed && form == Form::fp8)) return;
  const bool gathered = held == Form::fp8 && form == Form::fp8_transposed;
  if (!gathered) {
    for (std::size_t i = 0; i < held_.size(); ++i)
      if (state_.pass_weights[i].data() == state_.pass_weights[bucket].data()) held_[i] = Form::none;
    if (form == Form::act)
      queue_gather(bucket);
    else
      queue_fp8_gather(bucket);
  }
  held_[bucket] = form;
  if (form != Form::fp8_transposed) return;
  const std::int64_t layer = static_cast<std::int64_t>(bucket - BucketOrder(state_.shape().model).first_layer);
  gathered_[bucket] = queue_.run([=, this](Stream& stream) { transpose_fp8_weights(stream, state_, layer); });
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
  held_[bucket] = Form::none;
  has_maxima_[bucket] = false;
  const BucketOrder order(state_.shape().model);
  if (bucket == order.norms || bucket == order.embedding || bucket == order.layer(0))
    hold_weights({bucket, training_form(bucket, false)});
}

void StepExchange::queue_gather(std::size_t bucket) {
  const Tensor whole = state_.pass_weights[bucket], own = state_.owned_weights(state_.table().buckets()[bucket]);
  gathered_[bucket] = queue_.run([=, this](Stream& stream) { shard_->all_gather(stream, own, whole); });
}

void StepExchange::queue_fp8_gather(std::size_t bucket) {
  const bool known = has_maxima_[bucket];
  has_maxima_[bucket] = true;
  const std::int64_t layer = static_cast<std::int64_t>(bucket - BucketOrder(state_.shape().model).first_layer);
  gathered_[bucket] = queue_.run([=, this](Stream& stream) {
    if (!known) find_fp8_maxima(stream, *shard_, state_, layer);
    gather_fp8_weights(stream, *shard_, state_, layer);
  });
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
