#include "stream_cuda.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>

#include "src/runtime/cuda_context.h"
#include "ssa/runtime/host_memory.h"

namespace ssa {

namespace {

/// cuBLASLt's fastest algorithms on Hopper ask for 32 MiB.
constexpr std::size_t kBlasWorkspaceBytes = std::size_t{64} << 20;

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
  const char* generic = std::getenv("SSA_FORCE_GENERIC");
  SSA_CHECK(!generic || std::strcmp(generic, "0") == 0 || std::strcmp(generic, "1") == 0, "SSA_FORCE_GENERIC is ",
            generic, ", expected 0 or 1");
  context->force_generic = generic && std::strcmp(generic, "1") == 0;
  context->early_start = SSA_CUDA_SM90A && properties.major == 9;
  context->hopper_kernels = context->early_start && !context->force_generic;
  const char* debug = std::getenv("SSA_CUDA_DEBUG");
  context->debug = debug && std::strcmp(debug, "0") != 0;
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
  log_failure(cudaFreeHost(memory), "cudaFreeHost");
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
