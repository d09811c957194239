#include "ssa/train/moment_staging.h"

#include <algorithm>
#include <utility>

namespace ssa {
namespace {

void copy(Stream& stream, const Moments& to, const Moments& from) {
  stream.copy(to.m.data(), from.m.data(), from.m.bytes());
  stream.copy(to.v.data(), from.v.data(), from.v.bytes());
}

std::vector<MomentStaging::Piece> cut_into_pieces(const ModelState& state) {
  std::vector<MomentStaging::Piece> pieces;
  for (const std::size_t bucket : BucketOrder(state.shape().model).forward()) {
    const std::int64_t count = state.owned(state.table().buckets()[bucket]).count();
    const std::int64_t most = state.shape().offload_moments ? state.moment_staging[0].m.count() : count;
    for (std::int64_t begin = 0; begin < count; begin += most)
      pieces.push_back({bucket, {begin, std::min(begin + most, count)}, begin + most >= count});
  }
  return pieces;
}

}  // namespace

MomentStaging::MomentStaging(Stream& stream, const ModelState& state)
    : stream_(stream),
      state_(state),
      offloaded_(state.shape().offload_moments),
      pieces_(cut_into_pieces(state)),
      in_(stream, offloaded_, "moments in"),
      out_(stream, offloaded_, "moments out") {}

/// A piece of ModelState::m and v.
Moments MomentStaging::home(std::size_t i) const {
  const auto& [bucket, range, last] = pieces_[i];
  const auto part = [&, &b = state_.table().buckets()[bucket], &r = range](const Tensor& all) {
    return state_.owned_view(all, b).rows(r.begin, r.end);
  };
  return {part(state_.m), part(state_.v)};
}

/// The buffer of a piece, which piece i + kMomentBuffers has after it.
Moments MomentStaging::staging(std::size_t i) const {
  const Moments& buffer = state_.moment_staging[i % kMomentBuffers];
  const std::int64_t count = pieces_[i].range.count();
  return {buffer.m.rows(0, count), buffer.v.rows(0, count)};
}

void MomentStaging::copy_in(std::size_t i) {
  out_.wait(std::exchange(written_[i % kMomentBuffers], 0));  // the piece that had the buffer before
  read_[i % kMomentBuffers] = in_.run([to = staging(i), from = home(i)](Stream& stream) { copy(stream, to, from); });
}

void MomentStaging::prefetch() {
  if (!offloaded_) return;
  for (; copied_in_ < std::min(kMomentBuffers, pieces_.size()); ++copied_in_) copy_in(copied_in_);
}

Moments MomentStaging::fetch(std::size_t i) {
  if (!offloaded_) return home(i);
  SSA_CHECK(i < copied_in_, "moments: piece ", i, " is fetched, ", copied_in_, " were copied");
  in_.wait(std::exchange(read_[i % kMomentBuffers], 0));
  return staging(i);
}

void MomentStaging::store(std::size_t i) {
  if (!offloaded_) return;
  written_[i % kMomentBuffers] =
      out_.run([to = home(i), from = staging(i)](Stream& stream) { copy(stream, to, from); });
  // The buffer of the piece before this one is the next to be filled. It is being copied back during this piece's
  // update, so that the stream, which waits for it, loses no time.
  if (i > 0 && copied_in_ < std::min(i + kMomentBuffers, pieces_.size())) copy_in(copied_in_++);
  if (i + 1 == pieces_.size()) copied_in_ = 0;
}

void MomentStaging::finish() {
  if (!offloaded_) return;
  for (BackgroundQueue::Ticket& ticket : written_) out_.wait(std::exchange(ticket, 0));
  stream_.synchronize();
}

}  // namespace ssa
