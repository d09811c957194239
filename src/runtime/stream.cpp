#include "ssa/runtime/stream.h"

#include <omp.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <utility>
#include <vector>

#include "ssa/runtime/host_memory.h"
#include "stream_cuda.h"

namespace ssa {

struct Stream::Event {
  std::chrono::steady_clock::time_point host;
  std::shared_ptr<void> cuda;  ///< a cudaEvent_t, see stream_cuda.h
};

struct Stream::Recording {
  std::function<void()> work;
  std::shared_ptr<void> graph;  ///< a cudaGraphExec_t; null where `work` is to be called
  void* scratch = nullptr;      ///< that the graph uses
};

namespace {

constexpr std::size_t kAlignment = 256;

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "CPU";
}

/// The work buffer of OpenBLAS, which maps one when it is loaded and one per OpenMP thread that calls it, on its first
/// product. It repeats a failing call for ever; a limit on the address space (ulimit -v) makes it fail.
constexpr std::size_t kBufferBytes = std::size_t{128} << 20;

/// Ends the program when there is no room for the buffer of the load. It runs before the constructors of the libraries,
/// with system calls only: neither they nor a sanitizer are ready.
__attribute__((no_sanitize("address", "undefined"))) void check_room_to_load() {
  const long memory =
      ::syscall(SYS_mmap, nullptr, kBufferBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0L);
  if (memory != -1) {
    ::syscall(SYS_munmap, memory, kBufferBytes);
    return;
  }
  static constexpr char kMessage[] =
      "error: out of host memory: no room for the 128 MiB that OpenBLAS maps; expected a higher limit (ulimit -v)\n";
  ::syscall(SYS_write, STDERR_FILENO, kMessage, sizeof kMessage - 1);
  ::syscall(SYS_exit_group, kExitFailed);
}

__attribute__((section(".preinit_array"), used)) void (*run_before_libraries)() = check_room_to_load;

/// Throws where a product would wait for ever.
void check_room_for_blas() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return;
  const int threads = omp_get_max_threads();
  std::vector<void*> mapped;
  for (int i = 0; i < threads; ++i) {
    void* memory = ::mmap(nullptr, kBufferBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) break;
    mapped.push_back(memory);
  }
  for (void* memory : mapped) ::munmap(memory, kBufferBytes);
  SSA_CHECK(mapped.size() == static_cast<std::size_t>(threads), "out of host memory: the address space is limited to ",
            limit.rlim_cur, " bytes (ulimit -v), and OpenBLAS needs ", kBufferBytes, " more for each of ", threads,
            " threads; expected room for ", threads, ", there is room for ", mapped.size());
}

}  // namespace

#if !SSA_WITH_CUDA
int cuda_device_count() { return 0; }
#endif

DeviceKind parse_device(const std::string& text) {
  if (text == "cpu") return DeviceKind::cpu;
  if (text == "cuda") return DeviceKind::cuda;
  if (text != "auto") fail_usage("device ", text, ", expected auto, cuda or cpu");
  return cuda_device_count() > 0 ? DeviceKind::cuda : DeviceKind::cpu;
}

Stream::Stream(DeviceKind kind, int ordinal) : kind_(kind) {
  if (kind == DeviceKind::cuda) cuda_ = cuda::make_context(ordinal);
}

Stream::Stream(const Stream& other, Beside) : kind_(other.kind_) {
  if (other.cuda_) cuda_ = cuda::make_context_beside(*other.cuda_);
}

Stream::~Stream() {
  if (scratch_) free(scratch_);
}

std::string Stream::device_name() const { return cuda_ ? cuda::device_name(*cuda_) : cpu_name(); }

MemoryInfo Stream::memory_info() const {
  if (cuda_) return cuda::memory_info(*cuda_);
  return host_memory_info();
}

void* Stream::allocate(std::size_t bytes) {
  if (cuda_) return cuda::allocate(*cuda_, bytes);
  void* memory = allocate_host(bytes);
  try {
    check_room_for_blas();
  } catch (...) {
    free_host(memory);
    throw;
  }
  return memory;
}

void Stream::free(void* memory) noexcept {
  if (cuda_)
    cuda::free(*cuda_, memory);
  else
    std::free(memory);
}

void* Stream::allocate_host(std::size_t bytes) {
  if (cuda_) return cuda::allocate_host(*cuda_, bytes);
  void* memory = std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
  SSA_CHECK(memory || bytes == 0, "out of memory: ", bytes, " bytes wanted, ", memory_info().free_bytes, " free");
  return memory;
}

void Stream::free_host(void* memory) noexcept {
  if (cuda_)
    cuda::free_host(*cuda_, memory);
  else
    std::free(memory);
}

void Stream::copy(void* to, const void* from, std::size_t bytes) {
  if (bytes == 0 || measuring_) return;
  if (cuda_)
    cuda::copy(*cuda_, to, from, bytes);
  else
    std::memcpy(to, from, bytes);
}

void Stream::zero(Tensor tensor) {
  if (tensor.bytes() == 0 || measuring_) return;
  if (cuda_)
    cuda::zero(*cuda_, tensor.data(), tensor.bytes());
  else
    std::memset(tensor.data(), 0, tensor.bytes());
}

void Stream::synchronize() {
  if (cuda_) cuda::synchronize(*cuda_);
}

std::shared_ptr<Stream::Event> Stream::record() {
  auto event = std::make_shared<Event>();
  if (cuda_)
    event->cuda = cuda::record(*cuda_);
  else
    event->host = std::chrono::steady_clock::now();
  return event;
}

void Stream::host_wait(const Event& event) {
  if (cuda_) cuda::host_wait(*cuda_, event.cuda.get());
}

void Stream::wait(const Event& event) {
  if (cuda_) cuda::wait(*cuda_, event.cuda.get());
}

double Stream::elapsed_ms(const Event& begin, const Event& end) {
  if (cuda_) return cuda::elapsed_ms(*cuda_, begin.cuda.get(), end.cuda.get());
  return std::chrono::duration<double, std::milli>(end.host - begin.host).count();
}

std::shared_ptr<Stream::Recording> Stream::record_work(std::function<void()> work) {
  auto recording = std::make_shared<Recording>();
  recording->work = std::move(work);
  record(*recording);
  return recording;
}

void Stream::record(Recording& recording) {
  if (!cuda_) return;
  struct Scope {
    bool& on;
    explicit Scope(bool& flag) : on(flag) { on = true; }
    ~Scope() { on = false; }
  } scope(recording_);
  recording.graph = cuda::record_graph(*cuda_, recording.work);
  recording.scratch = scratch_;
}

void Stream::replay(Recording& recording) {
  if (!recording.graph || on_op_) return recording.work();
  if (recording.scratch != scratch_) record(recording);
  cuda::launch_graph(*cuda_, recording.graph.get());
}

void Stream::reserve_scratch(std::size_t bytes) {
  if (bytes <= scratch_bytes_) return;
  synchronize();
  if (scratch_) free(scratch_);
  scratch_ = nullptr;
  scratch_bytes_ = 0;
  scratch_ = allocate(bytes);
  scratch_bytes_ = bytes;
}

void* Stream::scratch(std::size_t bytes) {
  SSA_CHECK(bytes <= scratch_bytes_, "scratch: an op asks for ", bytes, " bytes, ", scratch_bytes_, " were reserved");
  return scratch_;
}

Buffer::Buffer(Stream& stream, std::size_t bytes, Place place)
    : stream_(&stream),
      data_(place == Place::device ? stream.allocate(bytes) : stream.allocate_host(bytes)),
      bytes_(bytes),
      place_(place) {}

Buffer::~Buffer() {
  if (!data_) return;
  if (place_ == Place::device)
    stream_->free(data_);
  else
    stream_->free_host(data_);
}

Buffer::Buffer(Buffer&& other) noexcept { *this = std::move(other); }

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(stream_, other.stream_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(place_, other.place_);
  return *this;
}

}  // namespace ssa
