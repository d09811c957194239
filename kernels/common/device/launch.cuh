// kernels/common/device: the only function that launches kernels. It raises the shared-memory limit, launches on the
// stream, and checks for errors in the name of the op.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <utility>

#include "src/runtime/cuda_context.h"

namespace ssa::cuda {

struct LaunchShape {
  dim3 grid;
  dim3 block;
  std::size_t shared_bytes = 0;  ///< dynamic shared memory
  unsigned cluster = 1;          ///< CTAs per cluster, adjacent in x; divides grid.x
  bool waits = false;            ///< the kernel calls wait_for_previous_kernel
  bool overlaps = false;         ///< the kernel calls end_after_previous_kernel, which says what it may do
};

/// To be called before a kernel touches memory that kernels before it write or read. In recorded work such a kernel
/// starts while the one before it is still ending, and does until here what depends on nothing. Elsewhere it returns
/// at once.
__device__ __forceinline__ void wait_for_previous_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Called at the start of a kernel: if the next one overlaps, it may start when all CTAs have called this.
__device__ __forceinline__ void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

/// Called by all threads at the end of a kernel that overlaps. Such a kernel starts while the one before it is still
/// running, on SMs that have nothing left to do. It may not read what that kernel writes, nor, if that kernel overlaps
/// too, what the one before it writes. It ends last, so all work is complete for a next kernel that does not overlap.
__device__ __forceinline__ void end_after_previous_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Kernel arguments are converted to the kernel's parameter types. An empty grid launches nothing.
template <class... Parameters, class... Arguments>
void launch(Stream& stream, const char* op, void (*kernel)(Parameters...), const LaunchShape& shape,
            Arguments&&... arguments) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
  CudaContext& context = stream.cuda();
  constexpr std::size_t kDefaultSharedLimit = 48 * 1024;
  if (shape.shared_bytes > kDefaultSharedLimit) {
    std::size_t& limit = context.shared_memory_limits[reinterpret_cast<const void*>(kernel)];
    if (limit < shape.shared_bytes) {
      SSA_CHECK(shape.shared_bytes <= context.properties.sharedMemPerBlockOptin, op, ": ", shape.shared_bytes,
                " bytes of shared memory per CTA needed, the GPU has ", context.properties.sharedMemPerBlockOptin);
      check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shape.shared_bytes)),
            op);
      limit = shape.shared_bytes;
    }
  }
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = context.stream;
  cudaLaunchAttribute attributes[2] = {};
  config.attrs = attributes;
  if (shape.cluster > 1) {
    cudaLaunchAttribute& cluster = attributes[config.numAttrs++];
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {shape.cluster, 1, 1};
  }
  if ((shape.overlaps || (shape.waits && stream.is_recording())) && context.early_start) {
    cudaLaunchAttribute& early = attributes[config.numAttrs++];
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
  }
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(std::forward<Arguments>(arguments))...), op);
  if (context.debug) check(cudaStreamSynchronize(context.stream), op);
}

/// Number of CTAs that cover `count` items with `per_cta` items each.
inline unsigned ctas_for(std::int64_t count, std::int64_t per_cta) {
  return static_cast<unsigned>((count + per_cta - 1) / per_cta);
}

/// The elements of a bf16 tensor as CUDA's type; null when the tensor is absent.
inline __nv_bfloat16* bf16(const Tensor& tensor) {
  return reinterpret_cast<__nv_bfloat16*>(tensor.as_or_null<bfloat16>());
}

}  // namespace ssa::cuda
