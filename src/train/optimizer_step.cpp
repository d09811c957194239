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
  if (state.shape().zero_stage == 0 || comm.size() == 1) return;
  for (const Bucket& bucket : state.table().buckets())
    comm.all_gather(stream, rows(state.weights, state.owned(bucket)), rows(state.weights, bucket.range));
}

}  // namespace

void reduce_gradients(Stream& stream, Comm& comm, const ModelState& state) {
  if (comm.size() == 1) return;
  const ProfilerRange range("reduce gradients");
  for (const Bucket& bucket : state.table().buckets()) {
    const Tensor whole = rows(state.gradients, bucket.range);
    if (state.shape().zero_stage == 0)
      comm.all_reduce(stream, whole, ReduceOp::sum);
    else
      comm.reduce_scatter(stream, whole, rows(state.gradients, state.owned(bucket)));
  }
}

void measure_gradients(Stream& stream, const ModelState& state) {
  const ProfilerRange range("measure gradients");
  const Tensor norm = state.sums.squared_norm();
  stream.zero(norm);
  for (const Bucket& bucket : state.table().buckets())
    squared_norm(stream, {.out = norm, .x = rows(state.gradients, state.owned(bucket))});
}

void measure_local_gradients(Stream& stream, const ModelState& state) {
  const ProfilerRange range("measure gradients");
  const Tensor norm = state.sums.squared_norm();
  stream.zero(norm);
  for (const Bucket& bucket : state.table().buckets())
    squared_norm(stream, {.out = norm, .x = rows(state.gradients, bucket.range)});
}

void update_weights(Stream& stream, Comm& comm, const ModelState& state, const TrainConfig& train, double learning_rate,
                    double gradient_scale, std::int64_t step) {
  const ProfilerRange range("update weights");
  for (const Bucket& bucket : state.table().buckets())
    adamw(stream, {.master = state.owned_master(bucket),
                   .m = state.owned_view(state.m, bucket),
                   .v = state.owned_view(state.v, bucket),
                   .weight = state.master ? rows(state.weights, state.owned(bucket)) : Tensor(),
                   .gradient = rows(state.gradients, state.owned(bucket)),
                   .gradient_scale = static_cast<float>(gradient_scale),
                   .learning_rate = learning_rate,
                   .beta1 = train.adam_beta1,
                   .beta2 = train.adam_beta2,
                   .epsilon = train.adam_epsilon,
                   .weight_decay = bucket.decay ? train.weight_decay : 0.0,
                   .step = step});
  gather_weights(stream, comm, state);
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

std::string first_nonfinite_tensor(Stream& stream, const ModelState& state) {
  const std::vector<const Param*> backward = backward_order(state.table(), state.shape().model);
  const std::vector<const Param*> forward(backward.rbegin(), backward.rend());
  if (const Param* param = first_nonfinite(stream, state.table(), state.weights, forward))
    return "weight of " + param->name;
  if (const Param* param = first_nonfinite(stream, state.table(), state.gradients, backward))
    return "gradient of " + param->name;
  return "none";
}

void spoil_gradient(Stream& stream, const ModelState& state) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  stream.copy(state.gradients.data(), &nan, sizeof nan);
  stream.synchronize();
}

}  // namespace ssa
