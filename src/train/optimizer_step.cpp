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

Tensor rows(const Tensor& flat, Range range) { return flat.rows(range.begin, range.end); }

/// From stage 1 on, fetches the slices that the other ranks updated.
void gather_weights(Stream& stream, Comm& comm, const ModelState& state) {
  if (!state.shape().shards_state()) return;
  for (const Bucket& bucket : state.table().buckets())
    comm.all_gather(stream, rows(state.weights, state.owned(bucket)), rows(state.weights, bucket.range));
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

void update_weights(Stream& stream, StepExchange& exchange, const ModelState& state, const TrainConfig& train,
                    double learning_rate, double gradient_scale, std::int64_t step) {
  const ProfilerRange range("update weights");
  for (const std::size_t i : BucketOrder(state.shape().model).forward()) {
    const Bucket& bucket = state.table().buckets()[i];
    adamw(stream, {.master = state.owned_master(bucket),
                   .m = state.owned_view(state.m, bucket),
                   .v = state.owned_view(state.v, bucket),
                   .weight = state.master ? rows(state.weights, state.owned(bucket)) : Tensor(),
                   .gradient = state.owned_gradients(bucket),
                   .gradient_scale = static_cast<float>(gradient_scale),
                   .learning_rate = learning_rate,
                   .beta1 = train.adam_beta1,
                   .beta2 = train.adam_beta2,
                   .epsilon = train.adam_epsilon,
                   .weight_decay = bucket.decay ? train.weight_decay : 0.0,
                   .step = step,
                   .seed = static_cast<std::uint64_t>(train.seed),
                   .first_index = state.owned(bucket).begin});
    exchange.gather_weights(i);
  }
}

void publish_weights(Stream& stream, Comm& comm, const ModelState& state) {
  if (state.master)
    for (const Bucket& bucket : state.table().buckets())
      cast(stream, {.out = rows(state.weights, state.owned(bucket)), .x = state.owned_master(bucket)});
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

bool weights_are_finite(Stream& stream, const ModelState& state) { return all_finite(stream, state.weights); }

namespace {

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

std::string first_nonfinite_tensor(Stream& stream, const ModelState& state) {
  const std::vector<const Param*> backward = backward_order(state.table(), state.shape().model);
  const std::vector<const Param*> forward(backward.rbegin(), backward.rend());
  if (const Param* param = first_nonfinite(stream, state.table(), state.weights, forward))
    return "weight of " + param->name;
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
