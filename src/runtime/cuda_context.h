// The CUDA state of a stream, for the CUDA sources. Host declarations only, no device code.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdio>
#include <memory>
#include <unordered_map>

#include "ssa/runtime/stream.h"

namespace ssa {

namespace cuda {
class MatmulPlans;  // matmul_cuda.cpp: the algorithm chosen for each shape

/// Throws unless `status` is success; `what` names the call or the op.
inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) [[unlikely]]
    fail("CUDA: ", what, ": ", cudaGetErrorString(status), " (", cudaGetErrorName(status), ")");
}

/// The same for code that cannot throw, destructors above all: an error is logged to stderr. An error that only says
/// that the process is shutting down is ignored.
inline void log_failure(cudaError_t status, const char* what) noexcept {
  if (status != cudaSuccess && status != cudaErrorCudartUnloading) [[unlikely]]
    std::fprintf(stderr, "CUDA: %s: %s (%s)\n", what, cudaGetErrorString(status), cudaGetErrorName(status));
}
}  // namespace cuda

struct CudaContext {
  CudaContext() = default;
  ~CudaContext();
  CudaContext(const CudaContext&) = delete;
  CudaContext& operator=(const CudaContext&) = delete;

  int device = 0;
  cudaStream_t stream = nullptr;
  /// multiProcessorCount, l2CacheSize, ...; sharedMemPerBlockOptin is at most SSA_SHARED_MEMORY_KB, if that is set.
  cudaDeviceProp properties{};
  cublasLtHandle_t blas = nullptr;
  void* blas_workspace = nullptr;
  std::size_t blas_workspace_bytes = 0;
  std::shared_ptr<cuda::MatmulPlans> matmul_plans;
  /// Host memory that was mapped and then pinned, and its size; other pinned memory is cudaMallocHost's.
  std::unordered_map<void*, std::size_t> mapped_host;
  /// Kernels whose dynamic shared memory limit was raised, and to what.
  std::unordered_map<const void*, std::size_t> shared_memory_limits;
  /// SSA_FORCE_GENERIC=1: run the kernels of all GPUs also where there are special ones.
  bool force_generic = false;
  /// Whether kernels in wgmma and TMA run: this build has code for sm_90a, and the GPU is one.
  bool hopper_kernels = false;
  /// Whether the code that runs has griddepcontrol, which lets a kernel start before the previous one has ended: it was
  /// compiled for sm_90a, not by the driver from PTX of compute_80.
  bool early_start = false;
  /// SSA_CUDA_DEBUG=1: synchronize after every launch, so that an error names its op.
  bool debug = false;
};

}  // namespace ssa
