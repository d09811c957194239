// Stream: an ordered queue of work on one device. The few functions here are all that the code above knows of devices.
// On the CPU every call has finished when it returns; on CUDA calls are asynchronous, in order.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "ssa/runtime/tensor.h"

namespace ssa {

enum class DeviceKind { cpu, cuda };

constexpr const char* name_of(DeviceKind kind) { return kind == DeviceKind::cuda ? "cuda" : "cpu"; }

/// Devices this binary can use on this machine: 0 when it was built without CUDA, or no driver or GPU is there.
int cuda_device_count();

/// "cpu", "cuda", or "auto": a GPU if this binary and this machine have one. UsageError for anything else.
DeviceKind parse_device(const std::string& text);

struct MemoryInfo {
  std::size_t free_bytes = 0, total_bytes = 0;
};

/// State that only the CUDA sources look into: the cudaStream_t, cuBLASLt handle, device properties.
struct CudaContext;

class Stream {
 public:
  /// `ordinal`: which GPU; ignored on the CPU, and where CUDA_VISIBLE_DEVICES leaves one GPU only. Throws Error when
  /// the device cannot be used, with the reason.
  explicit Stream(DeviceKind kind, int ordinal = 0);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  DeviceKind kind() const { return kind_; }
  std::string device_name() const;
  MemoryInfo memory_info() const;

  void* allocate(std::size_t bytes);  ///< 256-byte aligned; Error when there is not enough, saying how much there is
  void free(void* memory) noexcept;
  void* allocate_host(std::size_t bytes);  ///< pinned when the device is a GPU, so that copies overlap with work
  void free_host(void* memory) noexcept;

  void copy(void* to, const void* from, std::size_t bytes);  ///< between any two of host and device
  void zero(Tensor tensor);
  void synchronize();

  /// Marks a point of the queue; `elapsed_ms` waits for `end` and gives the time between two marks.
  struct Event;
  std::shared_ptr<Event> record();
  void wait(const Event& event);  ///< until the device has passed the mark
  double elapsed_ms(const Event& begin, const Event& end);

  /// Working memory of one op, valid until the next op runs. `reserve_scratch` grows it (it synchronises); an op that
  /// asks for more than was reserved throws.
  void reserve_scratch(std::size_t bytes);
  std::size_t scratch_bytes() const { return scratch_bytes_; }
  void* scratch(std::size_t bytes);

  /// Hears the name of every op before it begins, but not of those that an op calls; for tools that time a pass op by
  /// op.
  void on_op(std::function<void(const char*)> callback) { on_op_ = std::move(callback); }

  /// Lives as long as an op runs.
  class OpScope {
   public:
    OpScope(Stream& stream, const char* name) : stream_(stream) {
      if (stream_.op_depth_++ == 0 && stream_.on_op_) stream_.on_op_(name);
    }
    ~OpScope() { --stream_.op_depth_; }
    OpScope(const OpScope&) = delete;
    OpScope& operator=(const OpScope&) = delete;

   private:
    Stream& stream_;
  };

  /// Whether an op may time its ways to the same bits when it first meets a shape, to keep the fastest: tenths of a
  /// second a shape, well spent where shapes come again thousands of times. On by default.
  void time_alternatives(bool on) { times_alternatives_ = on; }
  bool times_alternatives() const { return times_alternatives_; }

  CudaContext& cuda() { return *cuda_; }

 private:
  DeviceKind kind_;
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
