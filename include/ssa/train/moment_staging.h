// AdamW's moments on their way through the device (train.offload_moments).
//
// The moments are in pinned host memory. Each piece of them is copied to a staging buffer on the device, updated there,
// and copied back. The copies to the device and those back have a stream of their own each, so that in
//
//   piece      0      1      2      3     ...
//   to device  0  1   2      3      4
//   update         0      1      2      3
//   back               0      1      2
//
// the copies of one piece to the device, the update of another and the copies back of a third take place at the same
// time. Copies are exact and elements are independent: the results have the same bits as without.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "ssa/runtime/background_queue.h"
#include "ssa/train/model_state.h"

namespace ssa {

class MomentStaging {
 public:
  /// What is updated at once: elements `range`, counted from the first that the rank owns in bucket `bucket`.
  struct Piece {
    std::size_t bucket;
    Range range;
    bool last;  ///< of the bucket
  };

  /// Without StateShape::offload_moments a piece is a bucket, nothing is copied, and no stream is made.
  MomentStaging(Stream& stream, const ModelState& state);

  /// Of all owned elements, bucket by bucket in BucketOrder::forward().
  const std::vector<Piece>& pieces() const { return pieces_; }

  /// Begins to copy the first pieces to the device, unless that was done since the last update. Not during an update.
  void prefetch();
  /// The moments of piece `i` on the device, for what the stream does next. An update calls fetch(i) and store(i) of
  /// each piece in order.
  Moments fetch(std::size_t i);
  /// Piece `i` is updated by what is on the stream now: copies it back.
  void store(std::size_t i);
  /// Waits until all stored pieces are in ModelState::m and v, for the host too.
  void finish();

 private:
  Moments home(std::size_t i) const;
  Moments staging(std::size_t i) const;
  void copy_in(std::size_t i);

  Stream& stream_;
  const ModelState& state_;
  bool offloaded_;
  std::vector<Piece> pieces_;
  BackgroundQueue in_, out_;
  std::array<BackgroundQueue::Ticket, kMomentBuffers> read_{}, written_{};  ///< the last copies of each staging buffer
  std::size_t copied_in_ = 0;  ///< pieces of this update whose copy to the device is queued or done
};

}  // namespace ssa
