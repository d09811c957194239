// Barriers in shared memory with separate arrive and wait (PTX ISA, "mbarrier"). A phase completes when the expected
// number of threads has arrived; the next phase then begins. Phases are identified by their parity: the first one has
// parity 0, and waiting for parity 1 of a new barrier returns immediately.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/common/device/reduce.cuh"
#include "mma.cuh"

namespace ssa::cuda {

/// Called by one thread; a __syncthreads() then makes the barrier visible to the others.
__device__ __forceinline__ void mbarrier_init(std::uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

/// Earlier memory accesses of this thread are visible to threads that wait for the phase.
__device__ __forceinline__ void mbarrier_arrive(std::uint32_t barrier) {
  asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared.b64 state, [%0];\n}" ::"r"(barrier) : "memory");
}

/// Arrivals per warp in mbarrier_arrive_warp and ClusterArrival. compute-sanitizer's racecheck does not know that
/// __syncwarp orders the accesses of the other lanes before one lane's arrival; in a build for racecheck all lanes
/// arrive.
#ifdef SSA_RACECHECK
constexpr int kArrivalsOfWarp = kWarpSize;
#else
constexpr int kArrivalsOfWarp = 1;
#endif

/// Earlier memory accesses of all lanes are visible to threads that wait for the phase. Called by all lanes.
__device__ __forceinline__ void mbarrier_arrive_warp(std::uint32_t barrier, int lane) {
  __syncwarp();
  if (lane < kArrivalsOfWarp) mbarrier_arrive(barrier);
}

/// Arrives, as one of the expected arrivals, when all earlier cp.async of this thread are complete.
__device__ __forceinline__ void cp_async_mbarrier_arrive_noinc(std::uint32_t barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void mbarrier_wait(std::uint32_t barrier, std::uint32_t parity) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  // How long a try may suspend the thread. By default that is so short that waiting threads take issue slots, and
  // power.
  constexpr std::uint32_t kNanoseconds = 10'000'000;
  asm volatile(
      "{\n.reg .pred done;\nagain:\nmbarrier.try_wait.parity.shared.b64 done, [%0], %1, %2;\n@!done bra again;\n}" ::
          "r"(barrier),
      "r"(parity), "r"(kNanoseconds)
      : "memory");
#else
  asm volatile(
      "{\n.reg .pred done;\nagain:\nmbarrier.test_wait.parity.shared.b64 done, [%0], %1;\n@!done bra again;\n}" ::"r"(
          barrier),
      "r"(parity)
      : "memory");
#endif
}

/// An mbarrier that also counts the bytes of asynchronous copies; compute capability 9.0 and later.
struct alignas(8) Barrier {
  std::uint64_t state;

  __device__ __forceinline__ std::uint32_t address() const { return shared_address(&state); }
  __device__ __forceinline__ void init(int arrivals) { mbarrier_init(address(), arrivals); }
  __device__ __forceinline__ void arrive_warp(int lane) { mbarrier_arrive_warp(address(), lane); }
  /// Arrives, and makes the phase wait for this many bytes of copies.
  __device__ __forceinline__ void arrive_expect_tx(int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address()), "r"(bytes) : "memory");
  }
  /// Waits until the phase of that parity is complete.
  __device__ __forceinline__ void wait(std::uint32_t parity) { mbarrier_wait(address(), parity); }
};

/// Called after the initialization of barriers, by the thread that did it.
__device__ __forceinline__ void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

}  // namespace ssa::cuda
