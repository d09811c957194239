#include "ssa/train/state_snapshot.h"

#include <algorithm>
#include <utility>

#include "ssa/runtime/host_memory.h"

namespace ssa {
namespace {

std::size_t bytes_per_element(const StateShape& shape) { return sizeof(float) + 2 * size_of(shape.moments_dtype); }

std::int64_t owned_count(const StateShape& shape, const Bucket& bucket) {
  return bucket.range.count() / StateSnapshot::owners(shape);
}

}  // namespace

std::size_t StateSnapshot::bytes(const StateShape& shape, const ParamTable& table) {
  std::int64_t all = 0, largest = 0;
  for (const Bucket& bucket : table.buckets()) {
    all += owned_count(shape, bucket);
    largest = std::max(largest, owned_count(shape, bucket));
  }
  return static_cast<std::size_t>(shape.async_checkpoints ? all : largest) * bytes_per_element(shape);
}

StateSnapshot::StateSnapshot(Stream& stream, const ModelState& state)
    : state_(state),
      stream_(stream),
      copies_(Stream::beside(stream)),
      weights_on_host_(stream.kind() == DeviceKind::cpu),
      moments_on_host_(weights_on_host_ || state.shape().offload_moments),
      memory_(stream, bytes(state.shape(), state.table()), Buffer::Place::host),
      copied_(state.table().buckets().size()) {
  const DType moments = state.shape().moments_dtype;
  char* at = static_cast<char*>(memory_.data());
  for (const Bucket& bucket : state.table().buckets()) {
    const std::int64_t count = owned_count(state.shape(), bucket);
    const Tensor master(at, DType::f32, {count}), m(at + master.bytes(), moments, {count});
    parts_.push_back({master, m, Tensor(at + master.bytes() + m.bytes(), moments, {count})});
    if (state.shape().async_checkpoints) at += master.bytes() + 2 * m.bytes();
  }
}

void StateSnapshot::queue(std::size_t bucket) {
  const Bucket& b = state_.table().buckets()[bucket];
  const Part& part = parts_[bucket];
  if (!last_) {
    copies_.wait(*stream_.record());
    stall_begin_ = stall_end_ = nullptr;
    host_copied_ = false;
  }
  const auto copy = [&](const Tensor& to, const Tensor& from) { copies_.copy(to.data(), from.data(), from.bytes()); };
  if (!weights_on_host_) copy(part.master, state_.owned_master(b));
  if (!moments_on_host_) {
    copy(part.m, state_.owned_view(state_.m, b));
    copy(part.v, state_.owned_view(state_.v, b));
  }
  last_ = copied_[bucket] = copies_.record();
}

void StateSnapshot::copy_host(std::size_t bucket) {
  const Bucket& b = state_.table().buckets()[bucket];
  const Part& part = parts_[bucket];
  const auto copy = [](const Tensor& to, const Tensor& from) { copy_on_host(to.data(), from.data(), from.bytes()); };
  if (weights_on_host_) copy(part.master, state_.owned_master(b));
  if (moments_on_host_) {
    copy(part.m, state_.owned_view(state_.m, b));
    copy(part.v, state_.owned_view(state_.v, b));
  }
}

void StateSnapshot::host_is_copied() {
  host_copied_ = true;
  host_copied_.notify_all();
}

const StateSnapshot::Part& StateSnapshot::wait(std::size_t bucket) {
  copies_.host_wait(*copied_[bucket]);
  return parts_[bucket];
}

void StateSnapshot::release() {
  if (!last_) return;
  stall_begin_ = stream_.record();
  host_copied_.wait(false);
  stream_.wait(*std::exchange(last_, nullptr));
  stall_end_ = stream_.record();
}

void StateSnapshot::finish() { last_ = nullptr; }

double StateSnapshot::stall_seconds() { return stall_end_ ? stream_.elapsed_ms(*stall_begin_, *stall_end_) / 1e3 : 0; }

}  // namespace ssa
