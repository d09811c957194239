#include "ssa/train/optimizer_step.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "kernels/optimizer/optimizer.h"
#include "ssa/runtime/profiler_range.h"

namespace ssa {
namespace {

/// At stages 1 and 2, fetches the slices that the other ranks updated.
void gather_weights(Stream& stream, Comm& comm, const ModelState& state) {
  if (!state.shape().shards_state() || state.shape().shards_weights()) return;
  const std::vector<Bucket>& buckets = state.table().buckets();
  for (std::size_t i = 0; i < buckets.size(); ++i)
    comm.all_gather(stream, state.owned_weights(buckets[i]), state.pass_weights[i]);
}

}  // namespace

void measure_gradients(Stream& stream, const ModelState& state) {
  const ProfilerRange range("measure gradients");
  const std::vector<Bucket>& buckets = state.table().buckets();
  for (std::size_t i = 0; i < buckets.size(); ++i) {
    const Tensor norm = state.sums.squared_norm(i);
    stream.zero(norm);
    squared_norm(stream, {.out = norm, .x = state.gradient_slice(buckets[i])});
  }
}

void update_weights(Stream& stream, StepExchange& exchange, MomentStaging& moments, const ModelState& state,
                    const TrainConfig& train, double learning_rate, double gradient_scale, std::int64_t step) {
  const ProfilerRange range("update weights");
  moments.prefetch();
  for (std::size_t i = 0; i < moments.pieces().size(); ++i) {
    const MomentStaging::Piece& piece = moments.pieces()[i];
    const Bucket& bucket = state.table().buckets()[piece.bucket];
    const auto part = [&](const Tensor& owned) { return owned.rows(piece.range.begin, piece.range.end); };
    const auto [m, v] = moments.fetch(i);
    adamw(stream, {.master = part(state.owned_master(bucket)),
                   .m = m,
                   .v = v,
                   .weight = state.master ? part(state.owned_weights(bucket)) : Tensor(),
                   .gradient = part(state.owned_gradients(bucket)),
                   .gradient_scale = static_cast<float>(gradient_scale),
                   .learning_rate = learning_rate,
                   .beta1 = train.adam_beta1,
                   .beta2 = train.adam_beta2,
                   .epsilon = train.adam_epsilon,
                   .weight_decay = bucket.decay ? train.weight_decay : 0.0,
                   .step = step,
                   .seed = static_cast<std::uint64_t>(train.seed),
                   .first_index = state.owned(bucket).begin + piece.range.begin});
    moments.store(i);
    if (piece.last) exchange.gather_weights(piece.bucket);
  }
}

void publish_weights(Stream& stream, Comm& comm, const ModelState& state) {
  if (state.master)
    for (const Bucket& bucket : state.table().buckets())
      cast(stream, {.out = state.owned_weights(bucket), .x = state.owned_master(bucket)});
  gather_weights(stream, comm, state);
}

namespace {

/// Whether all elements are finite. f32 and bf16.
bool all_finite(Stream& stream, const Tensor& tensor) {
  std::vector<std::byte> host(tensor.bytes());
  stream.copy(host.data(), tensor.data(), host.size());
  stream.synchronize();
  // The exponent of an infinity or a NaN has all bits set.
  const auto finite = [&]<class Bits>(Bits exponent) {
    const std::span<const Bits> values(reinterpret_cast<const Bits*>(host.data()), host.size() / sizeof(Bits));
    return std::ranges::all_of(values, [&](Bits bits) { return (bits & exponent) != exponent; });
  };
  return tensor.dtype() == DType::bf16 ? finite(std::uint16_t{0x7f80}) : finite(std::uint32_t{0x7f800000});
}

/// The first of the parameters whose part of the flat tensor is not finite; nullptr if there is none.
const Param* first_nonfinite(Stream& stream, const ParamTable& table, const Tensor& flat,
                             const std::vector<const Param*>& order) {
  const auto bad =
      std::ranges::find_if(order, [&](const Param* param) { return !all_finite(stream, table.view(flat, *param)); });
  return bad == order.end() ? nullptr : *bad;
}

}  // namespace

bool weights_are_finite(Stream& stream, Comm& comm, const ModelState& state) {
  return all_reduce(comm, all_finite(stream, state.weights) ? 1.0 : 0.0, ReduceOp::min) > 0;
}

namespace {

/// The same of the weights, of which each rank has its shard only. A collective.
const Param* first_nonfinite_weight(Stream& stream, Comm& comm, const ModelState& state,
                                    const std::vector<const Param*>& order) {
  if (!state.shape().shards_weights()) return first_nonfinite(stream, state.table(), state.weights, order);
  const auto bad = std::ranges::find_if(order, [&](const Param* param) {
    const Bucket& bucket = state.table().buckets()[state.table().bucket_of(*param)];
    const Range owned = state.owned(bucket);
    const std::int64_t begin = std::max(owned.begin, param->offset);
    const std::int64_t end = std::min(owned.end, param->offset + param->count());
    return begin < end && !all_finite(stream, state.owned_weights(bucket).rows(begin - owned.begin, end - owned.begin));
  });
  const double first = all_reduce(comm, static_cast<double>(bad - order.begin()), ReduceOp::min);
  return first < static_cast<double>(order.size()) ? order[static_cast<std::size_t>(first)] : nullptr;
}

/// The first bucket of which this rank computed a gradient that is not finite.
std::string first_nonfinite_bucket(Stream& stream, const ModelState& state) {
  const std::vector<double> norms = state.sums.read(stream).local_squared_norms;
  const BucketOrder order(state.shape().model);
  const auto bad = [&](std::size_t bucket) { return !std::isfinite(norms[bucket]); };
  if (order.head != order.embedding && bad(order.head)) return "gradient of lm_head.weight";
  for (std::int64_t i = state.shape().model.num_hidden_layers - 1; i >= 0; --i)
    if (bad(order.layer(i))) return concat("gradient of a matrix of model.layers.", i);
  if (bad(order.norms)) return "gradient of a norm's weight";
  return bad(order.embedding) ? "gradient of model.embed_tokens.weight" : "none";
}

}  // namespace

std::string first_nonfinite_tensor(Stream& stream, Comm& comm, const ModelState& state) {
  const std::vector<const Param*> backward = backward_order(state.table(), state.shape().model);
  const std::vector<const Param*> forward(backward.rbegin(), backward.rend());
  if (const Param* param = first_nonfinite_weight(stream, comm, state, forward)) return "weight of " + param->name;
  if (state.shape().shards_gradients()) return first_nonfinite_bucket(stream, state);
  if (const Param* param = first_nonfinite(stream, state.table(), state.gradients, backward))
    return "gradient of " + param->name;
  return "none";
}

void spoil_gradient(Stream& stream, const ModelState& state) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  stream.copy(state.pass_gradients[BucketOrder(state.shape().model).embedding].data(), &nan, sizeof nan);
  stream.synchronize();
}

}  // namespace ssa
