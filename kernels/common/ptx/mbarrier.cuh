// Barriers in shared memory that threads arrive at and wait for apart (PTX ISA, "mbarrier"). A phase ends when the
// expected number has arrived; the next begins at once. Phases are told apart by their parity, the first one has 0, and
// waiting for parity 1 of a new barrier returns at once.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/common/device/reduce.cuh"
#include "mma.cuh"

namespace ssa::cuda {

/// By one thread; a block barrier then makes it known to the others.
__device__ __forceinline__ void mbarrier_init(std::uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

/// What this thread did before is visible to whoever waits for the phase.
__device__ __forceinline__ void mbarrier_arrive(std::uint32_t barrier) {
  asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared.b64 state, [%0];\n}" ::"r"(barrier) : "memory");
}

/// Of a warp, at mbarrier_arrive_warp. racecheck does not see that __syncwarp orders what the other lanes did before
/// one lane's arrival; a build for it has them all arrive.
#ifdef SSA_RACECHECK
constexpr int kArrivalsOfWarp = kWarpSize;
#else
constexpr int kArrivalsOfWarp = 1;
#endif

/// What all lanes did before is visible to whoever waits for the phase. All lanes call it.
__device__ __forceinline__ void mbarrier_arrive_warp(std::uint32_t barrier, int lane) {
  __syncwarp();
  if (lane < kArrivalsOfWarp) mbarrier_arrive(barrier);
}

/// Arrives, as one of the expected, once all of this thread's cp.async so far have been done.
__device__ __forceinline__ void cp_async_mbarrier_arrive_noinc(std::uint32_t barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void mbarrier_wait(std::uint32_t barrier, std::uint32_t parity) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  // How long a try may suspend the thread. By default that is so short that waiting threads take issue slots, and power.
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

/// What bytes are copied or sent to; compute capability 9.0 and later.
struct alignas(8) Barrier {
  std::uint64_t state;

  __device__ __forceinline__ std::uint32_t address() const { return shared_address(&state); }
  __device__ __forceinline__ void init(int arrivals) { mbarrier_init(address(), arrivals); }
  __device__ __forceinline__ void arrive_warp(int lane) { mbarrier_arrive_warp(address(), lane); }
  /// Arrives, and makes the phase wait for that many bytes of copies.
  __device__ __forceinline__ void arrive_expect_tx(int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address()), "r"(bytes) : "memory");
  }
  /// Waits until the phase of that parity is complete.
  __device__ __forceinline__ void wait(std::uint32_t parity) { mbarrier_wait(address(), parity); }
};

/// After the barriers' initialisation, by the thread that did it.
__device__ __forceinline__ void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

}  // namespace ssa::cuda
