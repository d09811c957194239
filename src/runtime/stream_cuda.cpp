#include "stream_cuda.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <charconv>
#include <cstdlib>
#include <string>
#include <system_error>

#include "src/runtime/cuda_context.h"
#include "ssa/runtime/host_memory.h"

namespace ssa {

namespace {

/// cuBLASLt's fastest algorithms on Hopper ask for 32 MiB.
constexpr std::size_t kBlasWorkspaceBytes = std::size_t{64} << 20;

/// From this size on, host memory is mapped in huge pages and then pinned.
constexpr std::size_t kMappedHostBytes = std::size_t{64} << 20;

void use(const CudaContext& context) { cuda::check(cudaSetDevice(context.device), "cudaSetDevice"); }

/// Throws; when memory is short, says how much was asked for and how much is free.
void check_memory(cudaError_t status, CudaContext& context, std::size_t bytes) {
  if (status == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());  // or the next launch would report it again
    const MemoryInfo memory = cuda::memory_info(context);
    fail("out of GPU memory: ", bytes, " bytes asked for, ", memory.free_bytes, " free of ", memory.total_bytes,
         " on GPU ", context.device, " (", context.properties.name, ")");
  }
  cuda::check(status, "cudaMalloc");
}

/// Zeros in huge pages that all threads of OpenMP touched before they were pinned; null if that is not to be had. Takes
/// 1 s for 16 GiB with 16 threads and 5 s with one (H200, 2026-11-29), where cudaMallocHost takes 12 s.
void* map_pinned(std::size_t bytes) {
  if (bytes > host_memory_info().free_bytes) return nullptr;  // touching more would end the process
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  static_cast<void>(madvise(memory, bytes, MADV_HUGEPAGE));  // without them it only takes longer
  zero_on_host(memory, bytes);
  // A child process must not share pages that the GPU reads: they would move when this process writes to them.
  const bool kept = madvise(memory, bytes, MADV_DONTFORK) == 0;
  if (kept && cudaHostRegister(memory, bytes, cudaHostRegisterDefault) == cudaSuccess) return memory;
  if (kept) static_cast<void>(cudaGetLastError());
  munmap(memory, bytes);
  return nullptr;
}

/// Whether the environment variable `name` is 1; throws if it is neither unset nor 0 or 1.
bool is_set(const char* name) {
  const char* value = std::getenv(name);
  if (!value) return false;
  const std::string text = value;
  SSA_CHECK(text == "0" || text == "1", name, " is ", text, ", expected 0 or 1");
  return text == "1";
}

/// SSA_SHARED_MEMORY_KB: the kernels use no more shared memory per CTA than this, and none for Hopper, as on a GPU that
/// has less. `found` is what the GPU has, in bytes. Throws if the variable is not a number of KB from 48 to that.
std::size_t shared_memory_limit(std::size_t found) {
  const char* value = std::getenv("SSA_SHARED_MEMORY_KB");
  if (!value) return found;
  const std::string text = value;
  std::size_t kilobytes = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), kilobytes);
  SSA_CHECK(error == std::errc() && end == text.data() + text.size() && 48 <= kilobytes && kilobytes <= found / 1024,
            "SSA_SHARED_MEMORY_KB is ", text, ", expected a number from 48 to ", found / 1024);
  return kilobytes * 1024;
}

}  // namespace

int cuda_device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  static_cast<void>(cudaGetLastError());
  return 0;
}

CudaContext::~CudaContext() {
  cuda::log_failure(cudaSetDevice(device), "cudaSetDevice");
  matmul_plans.reset();
  if (blas_workspace) cuda::log_failure(cudaFree(blas_workspace), "cudaFree of the cuBLASLt workspace");
  if (blas) {
    const cublasStatus_t status = cublasLtDestroy(blas);
    if (status != CUBLAS_STATUS_SUCCESS)
      std::fprintf(stderr, "cuBLASLt: cublasLtDestroy: %s\n", cublasLtGetStatusString(status));
  }
  if (stream) cuda::log_failure(cudaStreamDestroy(stream), "cudaStreamDestroy");
}

namespace cuda {

std::shared_ptr<CudaContext> make_context(int ordinal) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  SSA_CHECK(status == cudaSuccess, "no usable GPU: ", cudaGetErrorString(status));
  // Slurm's --gpus-per-task shows each rank only its own GPU. NCCL refuses two ranks on one GPU.
  if (count == 1 && std::getenv("CUDA_VISIBLE_DEVICES")) ordinal = 0;
  SSA_CHECK(0 <= ordinal && ordinal < count, "GPU ", ordinal, " wanted, this machine has ", count);

  auto context = std::make_shared<CudaContext>();
  context->device = ordinal;
  check(cudaGetDeviceProperties(&context->properties, ordinal), "cudaGetDeviceProperties");
  const cudaDeviceProp& properties = context->properties;
  SSA_CHECK(properties.major * 10 + properties.minor >= SSA_CUDA_MIN_CAPABILITY, "GPU ", ordinal, " (", properties.name,
            ") has compute capability ", properties.major, ".", properties.minor, ", this build needs at least ",
            SSA_CUDA_MIN_CAPABILITY / 10, ".", SSA_CUDA_MIN_CAPABILITY % 10);
  use(*context);
  check(cudaStreamCreateWithFlags(&context->stream, cudaStreamNonBlocking), "cudaStreamCreate");
  const cublasStatus_t blas_status = cublasLtCreate(&context->blas);
  SSA_CHECK(blas_status == CUBLAS_STATUS_SUCCESS, "cuBLASLt: ", cublasLtGetStatusString(blas_status), " at start");
  check_memory(cudaMalloc(&context->blas_workspace, kBlasWorkspaceBytes), *context, kBlasWorkspaceBytes);
  context->blas_workspace_bytes = kBlasWorkspaceBytes;
  context->force_generic = is_set("SSA_FORCE_GENERIC");
  const std::size_t shared_memory = shared_memory_limit(properties.sharedMemPerBlockOptin);
  context->early_start = SSA_CUDA_SM90A && properties.major == 9;
  context->hopper_kernels =
      context->early_start && !context->force_generic && shared_memory == properties.sharedMemPerBlockOptin;
  context->properties.sharedMemPerBlockOptin = shared_memory;
  context->debug = is_set("SSA_CUDA_DEBUG");
  return context;
}

std::shared_ptr<CudaContext> make_context_beside(const CudaContext& other) {
  auto context = std::make_shared<CudaContext>();
  context->device = other.device;
  context->properties = other.properties;
  context->force_generic = other.force_generic;
  context->hopper_kernels = other.hopper_kernels;
  context->early_start = other.early_start;
  context->debug = other.debug;
  use(*context);
  int least = 0, greatest = 0;
  check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "cudaDeviceGetStreamPriorityRange");
  check(cudaStreamCreateWithPriority(&context->stream, cudaStreamNonBlocking, greatest), "cudaStreamCreate");
  return context;
}

std::string device_name(CudaContext& context) {
  return concat(context.properties.name, " with ", context.hopper_kernels ? "Hopper" : "generic", " kernels");
}

MemoryInfo memory_info(CudaContext& context) {
  use(context);
  MemoryInfo info;
  check(cudaMemGetInfo(&info.free_bytes, &info.total_bytes), "cudaMemGetInfo");
  return info;
}

void* allocate(CudaContext& context, std::size_t bytes) {
  use(context);
  void* memory = nullptr;
  check_memory(cudaMalloc(&memory, bytes), context, bytes);
  return memory;
}

void free(CudaContext& context, void* memory) noexcept {
  log_failure(cudaSetDevice(context.device), "cudaSetDevice");
  log_failure(cudaFree(memory), "cudaFree");
}

void* allocate_host(CudaContext& context, std::size_t bytes) {
  use(context);
  if (void* mapped = bytes < kMappedHostBytes ? nullptr : map_pinned(bytes)) {
    context.mapped_host.emplace(mapped, bytes);
    return mapped;
  }
  void* memory = nullptr;
  const cudaError_t status = cudaMallocHost(&memory, bytes);
  if (status == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());  // or the next launch would report it again
    fail("out of pinned host memory: ", bytes, " bytes wanted, ", host_memory_info().free_bytes, " free");
  }
  check(status, "cudaMallocHost");
  return memory;
}

void free_host(CudaContext& context, void* memory) noexcept {
  log_failure(cudaSetDevice(context.device), "cudaSetDevice");
  const auto mapped = context.mapped_host.find(memory);
  if (mapped == context.mapped_host.end()) {
    log_failure(cudaFreeHost(memory), "cudaFreeHost");
    return;
  }
  log_failure(cudaHostUnregister(memory), "cudaHostUnregister");
  munmap(memory, mapped->second);
  context.mapped_host.erase(mapped);
}

void copy(CudaContext& context, void* to, const void* from, std::size_t bytes) {
  use(context);
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, context.stream), "copy");
}

void zero(CudaContext& context, void* memory, std::size_t bytes) {
  use(context);
  check(cudaMemsetAsync(memory, 0, bytes, context.stream), "zero");
}

void synchronize(CudaContext& context) {
  use(context);
  check(cudaStreamSynchronize(context.stream), "synchronize");
}

std::shared_ptr<void> record(CudaContext& context) {
  use(context);
  cudaEvent_t event = nullptr;
  check(cudaEventCreate(&event), "cudaEventCreate");
  std::shared_ptr<void> owner(
      event, [](void* e) { log_failure(cudaEventDestroy(static_cast<cudaEvent_t>(e)), "cudaEventDestroy"); });
  check(cudaEventRecord(event, context.stream), "cudaEventRecord");
  return owner;
}

void host_wait(CudaContext& context, void* event) {
  use(context);
  check(cudaEventSynchronize(static_cast<cudaEvent_t>(event)), "cudaEventSynchronize");
}

void wait(CudaContext& context, void* event) {
  use(context);
  check(cudaStreamWaitEvent(context.stream, static_cast<cudaEvent_t>(event), 0), "cudaStreamWaitEvent");
}

double elapsed_ms(CudaContext& context, void* begin, void* end) {
  host_wait(context, end);
  float ms = 0;
  check(cudaEventElapsedTime(&ms, static_cast<cudaEvent_t>(begin), static_cast<cudaEvent_t>(end)),
        "cudaEventElapsedTime");
  return ms;
}

std::shared_ptr<void> record_graph(CudaContext& context, const std::function<void()>& work) {
  if (context.debug) return nullptr;
  use(context);
  constexpr auto what = "recording of work";
  check(cudaStreamBeginCapture(context.stream, cudaStreamCaptureModeThreadLocal), what);
  cudaGraph_t graph = nullptr;
  try {
    work();
  } catch (...) {  // the capture has to end; its own error would hide the first one
    static_cast<void>(cudaStreamEndCapture(context.stream, &graph));
    if (graph) log_failure(cudaGraphDestroy(graph), "cudaGraphDestroy");
    static_cast<void>(cudaGetLastError());
    throw;
  }
  check(cudaStreamEndCapture(context.stream, &graph), what);
  cudaGraphExec_t runnable = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&runnable, graph, 0);
  log_failure(cudaGraphDestroy(graph), "cudaGraphDestroy");
  check(status, what);
  return {runnable,
          [](void* g) { log_failure(cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(g)), "cudaGraphExecDestroy"); }};
}

void launch_graph(CudaContext& context, void* graph) {
  use(context);
  check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), context.stream), "cudaGraphLaunch");
}

}  // namespace cuda
}  // namespace ssa
