// What the CUDA sources know of a stream beyond stream.h. Host declarations only; no device code.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <cstddef>
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
}  // namespace cuda

struct CudaContext {
  CudaContext() = default;
  ~CudaContext();
  CudaContext(const CudaContext&) = delete;
  CudaContext& operator=(const CudaContext&) = delete;

  int device = 0;
  cudaStream_t stream = nullptr;
  cudaDeviceProp properties{};  ///< multiProcessorCount, l2CacheSize, sharedMemPerBlockOptin, ...
  cublasLtHandle_t blas = nullptr;
  void* blas_workspace = nullptr;
  std::size_t blas_workspace_bytes = 0;
  std::shared_ptr<cuda::MatmulPlans> matmul_plans;
  /// Kernels whose dynamic shared memory limit was raised, and to what.
  std::unordered_map<const void*, std::size_t> shared_memory_limits;
  /// SSA_CUDA_DEBUG=1: every launch is waited for, so that an error names the op that made it.
  bool debug = false;
};

}  // namespace ssa
