// Stream: an ordered queue of work on one device. The code above knows devices only through these functions. On the CPU
// every call has finished when it returns; on CUDA calls are asynchronous and run in order.
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "ssa/runtime/profiler_range.h"
#include "ssa/runtime/tensor.h"

namespace ssa {

enum class DeviceKind { cpu, cuda };

constexpr const char* name_of(DeviceKind kind) { return kind == DeviceKind::cuda ? "cuda" : "cpu"; }

/// GPUs this binary can use on this machine: 0 when it was built without CUDA, or there is no driver or GPU.
int cuda_device_count();

/// "cpu", "cuda", or "auto": a GPU if this binary and this machine have one. UsageError for anything else.
DeviceKind parse_device(const std::string& text);

struct MemoryInfo {
  std::size_t free_bytes = 0, total_bytes = 0;
};

/// State that only the CUDA sources use: the cudaStream_t, cuBLASLt handle, device properties.
struct CudaContext;

class Stream {
 public:
  /// `ordinal`: which GPU; ignored on the CPU, and when CUDA_VISIBLE_DEVICES leaves only one GPU. Throws Error with the
  /// reason when the device cannot be used.
  explicit Stream(DeviceKind kind, int ordinal = 0);
  /// A stream that touches no device and runs nothing. An op called on it only records the scratch it would ask for on
  /// a device of this kind; scratch_bytes() is then the largest amount. Its tensors need no memory.
  static Stream measuring(DeviceKind kind) { return Stream(kind, Measuring{}); }
  /// Another queue on the device of `other`, without cuBLASLt. On CUDA its work goes before the other's where both wait
  /// for room on the device. On the CPU it is like any stream: BackgroundQueue (background_queue.h) adds the thread.
  static Stream beside(const Stream& other) { return Stream(other, Beside{}); }
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  DeviceKind kind() const { return kind_; }
  std::string device_name() const;
  MemoryInfo memory_info() const;

  void* allocate(std::size_t bytes);  ///< 256-byte aligned; when there is too little, Error says how much is free
  void free(void* memory) noexcept;
  void* allocate_host(std::size_t bytes);  ///< pinned when the device is a GPU, so that copies overlap with work
  void free_host(void* memory) noexcept;

  void copy(void* to, const void* from, std::size_t bytes);  ///< from and to host or device memory
  void zero(Tensor tensor);
  void synchronize();

  /// A point in the queue.
  struct Event;
  std::shared_ptr<Event> record();
  void host_wait(const Event& event);  ///< blocks the host until the device reaches the event
  void wait(const Event& event);  ///< work queued from here on starts after the event, which another stream may record
  double elapsed_ms(const Event& begin, const Event& end);  ///< waits for `end`

  /// Work to run several times. On CUDA a recording is a graph: it runs without a call per kernel. `work` may queue ops
  /// and copies, which do not run while they are recorded, and has run once before, so that nothing is chosen or
  /// loaded; its shapes and addresses, host memory of copies too, are the same whenever it runs. On the CPU a recording
  /// is the function itself.
  struct Recording;
  std::shared_ptr<Recording> record_work(std::function<void()> work);
  void replay(Recording& recording);
  bool is_recording() const { return recording_; }

  /// Working memory of one op, valid until the next op runs. `reserve_scratch` grows it and synchronizes; an op that
  /// asks for more than was reserved throws.
  void reserve_scratch(std::size_t bytes);
  std::size_t scratch_bytes() const { return scratch_bytes_; }
  void* scratch(std::size_t bytes);
  bool is_measuring() const { return measuring_; }
  void measure_scratch(std::size_t bytes) { scratch_bytes_ = std::max(scratch_bytes_, bytes); }

  /// Called with each op's name before it runs, to time a pass op by op. Ops called by another op are not reported.
  void on_op(std::function<void(const char*)> callback) { on_op_ = std::move(callback); }

  /// Exists while an op runs.
  class OpScope {
   public:
    OpScope(Stream& stream, const char* name) : stream_(stream), range_(name) {
      if (stream_.op_depth_++ == 0 && stream_.on_op_) stream_.on_op_(name);
    }
    ~OpScope() { --stream_.op_depth_; }
    OpScope(const OpScope&) = delete;
    OpScope& operator=(const OpScope&) = delete;

   private:
    Stream& stream_;
    ProfilerRange range_;
  };

  /// Autotuning: on the first call with a new shape an op may time algorithms that give bit-identical results and keep
  /// the fastest (about 0.1 s per shape). On by default; turn it off when shapes rarely repeat.
  void time_alternatives(bool on) { times_alternatives_ = on; }
  bool times_alternatives() const { return times_alternatives_; }

  CudaContext& cuda() { return *cuda_; }

 private:
  struct Measuring {};
  Stream(DeviceKind kind, Measuring) : kind_(kind), measuring_(true) {}
  struct Beside {};
  Stream(const Stream& other, Beside);

  void record(Recording& recording);

  DeviceKind kind_;
  bool measuring_ = false, recording_ = false;
  void* scratch_ = nullptr;
  std::size_t scratch_bytes_ = 0;
  std::shared_ptr<CudaContext> cuda_;
  std::function<void(const char*)> on_op_;
  int op_depth_ = 0;
  bool times_alternatives_ = true;
};

/// Memory of a stream's device, or pinned host memory, with one owner.
class Buffer {
 public:
  enum class Place { device, host };

  Buffer() = default;
  Buffer(Stream& stream, std::size_t bytes, Place place = Place::device);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;

  void* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }

 private:
  Stream* stream_ = nullptr;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
  Place place_ = Place::device;
};

}  // namespace ssa
