// A copy of the state that this rank owns, from which a checkpoint is written while training continues.
//
//   main stream    update of step n | forward and backward of step n + 1       | update of step n + 1
//   side stream                     | master weights and moments to the host   |
//   another thread                  | offloaded moments; writes to the disk             ...
//
// Nothing but an update changes what is copied. release() makes the next one wait for the copies.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <vector>

#include "ssa/train/model_state.h"

namespace ssa {

class StateSnapshot {
 public:
  /// What this rank owns of a bucket, in host memory: f32 and moments_dtype [owned].
  struct Part {
    Tensor master, m, v;
  };

  /// How many ranks own a part of what rank 0 writes: the first ones.
  static int owners(const StateShape& shape) { return shape.shards_state() ? shape.shards() : 1; }

  /// Host memory of a snapshot on a rank that owns a part of the state: 12 bytes per element, 8 with moments in bf16.
  /// Of all elements that it owns with StateShape::async_checkpoints, else of its part of the largest bucket.
  static std::size_t bytes(const StateShape& shape, const ParamTable& table);

  /// Takes the memory, pinned for a GPU. It takes longer than the copies: a snapshot is kept for all checkpoints.
  StateSnapshot(Stream& stream, const ModelState& state);

  // A snapshot is taken by queue() of each bucket, and copy_host() of each. Without async_checkpoints the buckets share
  // their memory: a bucket is copied and used before the next is queued.

  /// Queues the copies of a bucket from the device, after what is on the main stream now.
  void queue(std::size_t bucket);
  /// Copies what of a bucket is in host memory. From any thread.
  void copy_host(std::size_t bucket);
  /// To be called after the last copy_host(), which release() waits for. From any thread.
  void host_is_copied();
  /// Waits until what queue() copies of the bucket is there. From any thread.
  const Part& wait(std::size_t bucket);

  /// What the main stream does next may change the state: it waits for the copies from the device, and the host for
  /// host_is_copied(). Does nothing if all of them are known to be done.
  void release();
  /// All copies are done.
  void finish();

  /// How long the main stream waited in release(), in seconds; 0 if it has not since the last queue().
  double stall_seconds();

 private:
  const ModelState& state_;
  Stream& stream_;
  Stream copies_;
  bool weights_on_host_, moments_on_host_;
  Buffer memory_;
  std::vector<Part> parts_;                             ///< per bucket
  std::vector<std::shared_ptr<Stream::Event>> copied_;  ///< per bucket, on copies_
  std::shared_ptr<Stream::Event> last_;                 ///< of copies_; null if release() has nothing to wait for
  std::atomic<bool> host_copied_ = true;
  std::shared_ptr<Stream::Event> stall_begin_, stall_end_;
};

}  // namespace ssa
